//! Recognizes license files by their names, and well-known licenses by their texts.

/// How the names of license files begin, in upper case.
const NAMES: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", "UNLICENSE"];

/// The extensions of files that are not license texts, whatever their names: source code, data and archives, in upper case.
const OTHERS: [&str; 12] = [
    ".GO", ".PY", ".RB", ".C", ".H", ".JS", ".TS", ".RS", ".ERB", ".TGZ", ".GZ", ".JSON",
];

/// A well-known license. Its text is compared in lower case, with one space between words.
struct Known {
    /// The SPDX identifier.
    id: &'static str,
    /// The length of the longest usual text, in bytes. A longer text may contain other licenses.
    longest: usize,
    /// Phrases that the text contains.
    has: &'static [&'static str],
    /// Phrases that distinguish similar licenses from this one.
    lacks: &'static [&'static str],
}

const BSD: &str = "redistribution and use in source and binary forms, with or without modification, are permitted provided";
const ADVERTISING: &str = "all advertising materials mentioning features";
const ENDORSE: &str = "used to endorse or promote products";
/// Conditions of the bzip2 license, which otherwise reads like a BSD license.
const BZIP2: &str = "the origin of this software";
const ALTERED: &str = "altered source versions";
/// The start of a clause of the licenses of curl and X11, which otherwise read like ISC and MIT.
const EXCEPT: &str = "except as contained in this notice";
/// The clause that the JSON license adds to MIT.
const GOOD: &str = "good, not evil";
const ISC: &str = "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is";
const ISC_OLD: &str = "permission to use, copy, modify, and distribute this software for any purpose with or without fee is";
const NOTICE: &str =
    "provided that the above copyright notice and this permission notice appear in all copies";

/// The licenses that are identified. The GNU licenses are not among them: their texts do not say whether a later version may be used.
const KNOWN: [Known; 14] = [
    Known {
        id: "Apache-2.0",
        longest: 13_000,
        has: &["apache license version 2.0, january 2004"],
        lacks: &["llvm exceptions"],
    },
    Known {
        id: "MIT",
        longest: 2_000,
        has: &[
            "granted, free of charge, to any person obtaining a copy",
            "copyright notice and this permission notice shall be included in all copies",
        ],
        lacks: &[EXCEPT, GOOD],
    },
    Known {
        id: "BSD-3-Clause",
        longest: 2_500,
        has: &[BSD, ENDORSE],
        lacks: &[ADVERTISING, BZIP2, ALTERED],
    },
    Known {
        id: "BSD-2-Clause",
        longest: 2_000,
        has: &[BSD],
        lacks: &[ADVERTISING, ENDORSE, BZIP2, ALTERED],
    },
    Known {
        id: "BSD-4-Clause",
        longest: 2_500,
        has: &[BSD, ADVERTISING, ENDORSE],
        lacks: &[],
    },
    Known {
        id: "ISC",
        longest: 1_500,
        has: &[ISC, NOTICE],
        lacks: &[EXCEPT],
    },
    Known {
        id: "ISC",
        longest: 1_500,
        has: &[ISC_OLD, NOTICE],
        lacks: &[EXCEPT],
    },
    Known {
        id: "0BSD",
        longest: 1_200,
        has: &[ISC],
        lacks: &[NOTICE],
    },
    Known {
        id: "MPL-2.0",
        longest: 18_000,
        has: &["mozilla public license version 2.0", "1.1. \"contributor\""],
        lacks: &[],
    },
    Known {
        id: "Zlib",
        longest: 1_500,
        has: &[
            "without any express or implied warranty",
            "altered source versions must be plainly marked as such",
        ],
        lacks: &[],
    },
    Known {
        id: "BSL-1.0",
        longest: 2_000,
        has: &["boost software license - version 1.0"],
        lacks: &[],
    },
    Known {
        id: "Unlicense",
        longest: 2_000,
        has: &["this is free and unencumbered software released into the public domain"],
        lacks: &[],
    },
    Known {
        id: "CC0-1.0",
        longest: 8_000,
        has: &["cc0 1.0 universal", "affirmer"],
        lacks: &[],
    },
    Known {
        id: "EPL-2.0",
        longest: 15_000,
        has: &["eclipse public license - v 2.0"],
        lacks: &[],
    },
];

/// Whether a file is a license file, by its name without directories.
#[must_use]
pub fn is_license(name: &str) -> bool {
    let name = name.to_uppercase();
    let starts = NAMES.iter().any(|start| {
        let rest = name.strip_prefix(start);
        rest.is_some_and(|rest| !rest.starts_with(|it: char| it.is_ascii_alphabetic()))
    });
    starts && !OTHERS.iter().any(|end| name.ends_with(end))
}

/// The SPDX identifier of a license's text. `None` if the text is not that of exactly one well-known license, as when several licenses follow
/// each other.
#[must_use]
pub fn identify(text: &str) -> Option<&'static str> {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let text = words.join(" ");
    let matches = |known: &&Known| {
        known.has.iter().all(|phrase| text.contains(phrase))
            && !known.lacks.iter().any(|phrase| text.contains(phrase))
    };
    let mut found = KNOWN.iter().filter(matches);
    let only = found.next().filter(|it| text.len() <= it.longest)?;
    found.next().is_none().then_some(only.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIT: &str = "Copyright (c) 2026 Example\n\nPermission is granted, free of charge, to any person obtaining a copy of this \
                       software\nand associated documentation files. The above copyright notice and this permission notice shall be included \
                       in all copies or substantial portions of the Software.";

    #[test]
    fn names_of_licenses_are_recognized() {
        for name in [
            "LICENSE",
            "License.txt",
            "LICENSE-MIT",
            "COPYING.LESSER",
            "copying",
            "UNLICENSE",
            "LICENCE.md",
        ] {
            assert!(is_license(name), "{name}");
        }
        for name in [
            "licenses",
            "license.go",
            "LICENSED",
            "license_test.rb",
            "NOTICE",
            "license.tgz",
        ] {
            assert!(!is_license(name), "{name}");
        }
    }

    #[test]
    fn well_known_licenses_are_identified() {
        assert_eq!(identify(MIT), Some("MIT"));
        let apache = "                 Apache License\n           Version 2.0, January 2004\n";
        assert_eq!(identify(apache), Some("Apache-2.0"));
        let two = "Redistribution and use in source and binary forms, with or without\nmodification, are permitted provided that";
        assert_eq!(identify(two), Some("BSD-2-Clause"));
        let three = format!("{two} Neither the name may be used to endorse or promote products");
        assert_eq!(identify(&three), Some("BSD-3-Clause"));
        let four = format!("{three} All advertising materials mentioning features or use");
        assert_eq!(identify(&four), Some("BSD-4-Clause"));
        assert_eq!(identify(&format!("{ISC}, {NOTICE}.")), Some("ISC"));
        assert_eq!(identify(&format!("{ISC}.")), Some("0BSD"));
    }

    #[test]
    fn variants_of_well_known_licenses_are_not_identified() {
        let curl = format!(
            "{ISC_OLD} granted, {NOTICE}. Except as contained in this notice, the name of a copyright holder shall not be used in \
             advertising"
        );
        let bsd = "Redistribution and use in source and binary forms, with or without modification, are permitted provided that";
        let bzip2 = format!(
            "{bsd} 2. The origin of this software must not be misrepresented 3. Altered source versions must be plainly marked as such \
             4. The name of the author may not be used to endorse or promote products"
        );
        let json = format!("{MIT} The Software shall be used for Good, not Evil.");
        let x11 = format!(
            "{MIT} Except as contained in this notice, the name of the X Consortium shall not be used in advertising"
        );
        for text in [curl, bzip2, json, x11] {
            assert_eq!(identify(&text), None, "{text}");
        }
    }

    #[test]
    fn other_and_combined_texts_are_not_identified() {
        for text in [
            String::new(),
            "All rights reserved".to_owned(),
            "GNU GENERAL PUBLIC LICENSE Version 2, June 1991".to_owned(),
            format!("{MIT} Apache License Version 2.0, January 2004"),
            format!("{MIT} {}", "other ".repeat(500)),
        ] {
            assert_eq!(identify(&text), None, "{text}");
        }
    }
}
