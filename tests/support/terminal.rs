//! Runs the program on a terminal: a pseudo-terminal whose other end belongs to the test.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::agent::Agent;
use super::report;
use super::tools::wait_for;

const LIMIT: Duration = Duration::from_secs(60);

/// A program whose stdin and stderr are a terminal. It is killed when the test ends.
pub(crate) struct OnTerminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
    /// The length of the screen with the echo of the last line.
    typed_until: usize,
    /// Where a compilation writes its report.
    report: Option<PathBuf>,
    directory: PathBuf,
}

impl Agent {
    /// Starts the command with a terminal as stdin and stderr, and a file as stdout.
    pub(crate) fn start_on_terminal(mut self) -> OnTerminal {
        // So wide that bash shows each line as it was typed.
        let size = nix::pty::Winsize {
            ws_row: 50,
            ws_col: 1000,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = nix::pty::openpty(&size, None).unwrap();
        let stdout = File::create(self.output.join("stdout")).unwrap();
        let theirs = || Stdio::from(pair.slave.as_fd().try_clone_to_owned().unwrap());
        let report = self.add_report(&self.output.clone());
        let directory = self.working_directory();
        let child = self
            .command()
            .stdin(theirs())
            .stderr(theirs())
            .stdout(stdout)
            .spawn()
            .unwrap();
        drop(pair.slave);
        let keyboard = File::from(pair.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let reading = std::thread::spawn({
            let (mut reader, screen) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
            move || {
                let mut buffer = [0; 4096];
                // The end is an error: no process has the terminal any more.
                while let Ok(length @ 1..) = reader.read(&mut buffer) {
                    screen.lock().unwrap().extend_from_slice(&buffer[..length]);
                }
            }
        });
        OnTerminal {
            child,
            keyboard,
            screen,
            reading,
            typed_until: 0,
            report,
            directory,
        }
    }
}

impl OnTerminal {
    /// Everything that was shown so far.
    pub(crate) fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    pub(crate) fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line, when the terminal shows a prompt of bash.
    pub(crate) fn line(&mut self, line: &str) {
        wait_for(&format!("the prompt before `{line}`"), LIMIT, || {
            let screen = self.screen();
            assert!(self.is_running(), "{screen}");
            let has_prompt = screen.ends_with("# ") || screen.ends_with("$ ");
            match has_prompt && screen.len() > self.typed_until {
                true => Ok(()),
                false => Err(format!("{screen:?}")),
            }
        });
        // Until the echo, the screen ends with the old prompt.
        self.typed_until = self.screen().len() + line.len();
        self.keys(&format!("{line}\r"));
    }

    pub(crate) fn shows(&mut self, text: &str) {
        wait_for(&format!("`{text}` on the terminal"), LIMIT, || {
            let screen = self.screen();
            match screen.contains(text) {
                true => Ok(()),
                false if self.is_running() => Err(screen),
                false => panic!("the program has ended:\n{screen}"),
            }
        });
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.keyboard, size).unwrap();
    }

    /// Whether keys are echoed and processed by the terminal, as before the start.
    pub(crate) fn is_in_line_mode(&self) -> bool {
        let settings = rustix::termios::tcgetattr(&self.keyboard).unwrap();
        settings
            .local_modes
            .contains(rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ECHO)
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end. Returns the exit code and what was shown.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let status = wait_for("the end", LIMIT, || {
            let screen = self.screen();
            self.child.try_wait().unwrap().ok_or(screen)
        });
        // Nothing is shown after the last process with this terminal has ended.
        wait_for("the end of the output", LIMIT, || {
            let is_complete = self.reading.is_finished();
            is_complete.then_some(()).ok_or(self.screen())
        });
        let (code, screen) = (status.code(), self.screen());
        if let (Some(report), Some(code)) = (&self.report, code)
            && (matches!(code, 0 | 1 | 3 | 4) || report.exists())
        {
            report::checked(report, &self.directory, code, None);
        }
        (code, screen)
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
