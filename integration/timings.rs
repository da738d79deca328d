//! The page of `--timings` in a browser.

use std::path::PathBuf;

use serde_json::Value;

use crate::common::{ReleaseBuilder, World};
use crate::support::browser::Browser;

const DESKTOP: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (360, 740);

/// The smallest contrast of a text with its background, and the text: 4.5 is enough for all readers.
const CONTRAST: &str = r#"(() => {
  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [red, green, blue] = color.slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const back = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] !== 0) return color;
    }
  };
  let worst = { ratio: 21 };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.matches(".hidden")) continue;
    const [one, other] = [parse(getComputedStyle(element).color), back(element)].map(luminance);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: texts.currentNode.data, class: element.className };
  }
  return worst;
})()"#;

/// Packages of different lengths, one with hostile output, one that fails.
fn release() -> ReleaseBuilder {
    let work = |count| {
        format!("set +x; for n in $(seq {count}); do echo line $n; sha1sum /bin/bash; done")
    };
    ReleaseBuilder::new("timings", "1")
        .package("lib", &[], &work(60))
        .package("tool", &[], &work(20))
        .package("app", &["lib"], &work(40))
        .package(
            "hostile-package-with-a-rather-long-name",
            &["tool"],
            "echo '</script><img src=x onerror=\"document.title=1\">'; printf '%0300d\n' 1",
        )
        .package("broken", &["lib"], "echo the reason; exit 1")
}

/// The page of a run, in a world that keeps it.
fn page() -> (World, PathBuf) {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let page = world.path("timings.html");
    let agent = world
        .agent()
        .arg("--keep-going")
        .arg("--timings")
        .arg(&page);
    agent.arg(&tarball).run().fails();
    (world, page)
}

/// The values of a column, from the top.
fn column(browser: &mut Browser, name: &str) -> Vec<String> {
    let values = browser.value(&format!(
        "[...document.querySelectorAll('tbody tr')].map((row) => [...row.cells].find((it) =>
           (it.dataset.label ?? 'Package') === '{name}').dataset.value)"
    ));
    let values = values.as_array().unwrap().iter();
    values.map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// Clicks on the title of a column, and returns its `aria-sort`.
fn click(browser: &mut Browser, name: &str) -> Value {
    browser.value(&format!(
        "(() => {{ const title = [...document.querySelectorAll('thead th')].find((it) => it.textContent === '{name}');
           title.querySelector('button').click(); return title.ariaSort; }})()"
    ))
}

#[test]
fn page_of_timings_works_in_a_browser() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let (_world, page) = page();
    for (name, size, scheme) in [
        ("light", DESKTOP, "light"),
        ("dark", DESKTOP, "dark"),
        ("phone", PHONE, "light"),
        ("phone-dark", PHONE, "dark"),
    ] {
        browser.show(size, scheme);
        browser.open(&page);
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        browser.screenshot(&directory.join(format!("timings-{name}.png")));
        let widths =
            "[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]";
        let widths = browser.value(widths);
        assert_eq!(widths[1], size.0, "{name}");
        assert!(widths[0].as_u64() <= widths[1].as_u64(), "{name}: {widths}");
        let worst = browser.value(CONTRAST);
        assert!(worst["ratio"].as_f64().unwrap() >= 4.5, "{name}: {worst}");
        let dark = browser.value("matchMedia('(prefers-color-scheme: dark)').matches");
        assert_eq!(dark, scheme == "dark");
    }
    assert_eq!(browser.value("document.title"), "timings/1: timings");
    assert_eq!(browser.value("document.images.length"), 0);
}

#[test]
fn click_on_a_title_sorts_the_table() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let (_world, page) = page();
    browser.open(&page);
    let packages =
        browser.value("JSON.parse(document.getElementById('report').text).packages.length");
    assert_eq!(column(&mut browser, "Package").len() as u64, packages);
    assert_eq!(click(&mut browser, "Package"), "ascending");
    let names = column(&mut browser, "Package");
    assert!(names.is_sorted(), "{names:?}");
    assert_eq!(names.len() as u64, packages);
    for (order, direction) in [("descending", -1.0), ("ascending", 1.0)] {
        assert_eq!(click(&mut browser, "Script"), order);
        let times = column(&mut browser, "Script");
        let times = times
            .iter()
            .map(|it| it.parse::<f64>().unwrap() * direction);
        let times: Vec<f64> = times.collect();
        assert!(times.is_sorted(), "{times:?}");
    }
    assert_eq!(
        browser.value("document.querySelectorAll('[aria-sort]').length"),
        1
    );
    browser.value("location.hash = [...document.querySelectorAll('tbody a')].find((it) => it.textContent === 'lib').hash");
    let open = "document.getElementById(location.hash.slice(1)).closest('details').open";
    assert_eq!(browser.value(open), true);
}
