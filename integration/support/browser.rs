//! A headless Chromium, controlled through the DevTools protocol: messages of JSON on two pipes, each with a zero byte at its end.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::require_tools;

/// Chromium reads commands from descriptor 3 and writes results to descriptor 4. Its other output is not of interest.
const START: &str =
    r#"exec chromium "$@" 3<&0 4>&1 </dev/null >/dev/null 2>"$HOME/stderr" about:blank"#;

/// The browser with one page. It exits when its pipes are closed.
pub(crate) struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    results: BufReader<ChildStdout>,
    session: Option<String>,
    last: u64,
    profile: TempDir,
}

impl Browser {
    /// Starts a browser; `None` if none is installed, see [`require_tools`].
    pub(crate) fn start() -> Option<Self> {
        if !require_tools(&["chromium"]) {
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("bash")
            .args(["-c", START, "chromium", "--headless", "--no-sandbox"])
            .args(["--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--hide-scrollbars", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take();
        let results = BufReader::new(child.stdout.take().unwrap());
        let mut browser = Self {
            child,
            commands,
            results,
            session: None,
            last: 0,
            profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.call(
            "Target.attachToTarget",
            json!({"targetId": target["targetId"], "flatten": true}),
        );
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        browser.call("Page.enable", json!({}));
        Some(browser)
    }

    /// Loads a file.
    pub(crate) fn open(&mut self, file: &Path) {
        let url = format!("file://{}", file.display());
        self.call("Page.navigate", json!({"url": url}));
        while self.next()["method"] != "Page.loadEventFired" {}
    }

    /// Sets the size of the window in pixels, and the preferred color scheme.
    pub(crate) fn show(&mut self, (width, height): (u32, u32), scheme: &str) {
        let is_phone = width < 500;
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}),
        );
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}));
    }

    /// The value of a JavaScript expression.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let result = self.call(
            "Runtime.evaluate",
            json!({"expression": expression, "returnByValue": true}),
        );
        assert!(result.get("exceptionDetails").is_none(), "{result}");
        result["result"]["value"].clone()
    }

    /// Writes a picture of the whole page.
    pub(crate) fn screenshot(&mut self, file: &Path) {
        let taken = self.call(
            "Page.captureScreenshot",
            json!({"captureBeyondViewport": true}),
        );
        let data =
            base64::engine::general_purpose::STANDARD.decode(taken["data"].as_str().unwrap());
        std::fs::write(file, data.unwrap()).unwrap();
    }

    #[track_caller]
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        let commands = self.commands.as_mut().unwrap();
        commands
            .write_all(format!("{command}\0").as_bytes())
            .unwrap();
        loop {
            let message = self.next();
            if message["id"] == self.last {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
        }
    }

    /// The next result or event.
    #[track_caller]
    fn next(&mut self) -> Value {
        let mut message = Vec::new();
        self.results.read_until(0, &mut message).unwrap();
        if message.pop() != Some(0) {
            let printed = std::fs::read_to_string(self.profile.path().join("stderr"));
            panic!("chromium has ended: {}", printed.unwrap_or_default());
        }
        serde_json::from_slice(&message).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}
