//! Predicts whether a Director would use the compiled packages of a release on a given stemcell
//! (`--stemcell`). No I/O.

use serde::Serialize;

use super::finding::Findings;
use super::rules::{STEMCELL_FLOATING, STEMCELL_NOT_USED};
use super::versions::major;
use crate::release::{CompiledPackage, Manifest, Name, Slug};

/// How a Director uses the compiled packages of a release on a stemcell, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Use {
    /// The Director uses the packages, which were compiled for this stemcell.
    Exact,
    /// The Director uses the packages only if it does not have their sources: they were compiled for
    /// another version of the stemcell, with the same major version.
    Floating,
    /// The Director does not use the packages.
    None,
    /// The release has only source packages. The Director compiles them.
    Compile,
}

/// The prediction for one stemcell.
#[derive(Debug)]
pub(super) struct Target {
    pub stemcell: Slug,
    /// The worst use among all packages.
    pub use_: Use,
    /// How the release is used on the stemcell, in words.
    pub text: String,
    pub packages: Vec<(Name, Use)>,
    pub exported_from: ExportedFrom,
}

/// The prediction for a deployment whose manifest has `exported_from: OS/VERSION` with this stemcell.
#[derive(Debug, Serialize)]
pub(super) struct ExportedFrom {
    /// Whether a deployment with this setting can use the release.
    pub works: bool,
    pub text: String,
}

impl Target {
    /// Makes the prediction for a release. Reports packages that a Director would never or only
    /// sometimes use on the stemcell.
    pub(super) fn new(manifest: &Manifest, stemcell: &Slug, findings: &mut Findings) -> Self {
        let compiled = manifest.compiled_packages.as_deref();
        let packages: Vec<(Name, Use)> = compiled
            .into_iter()
            .flatten()
            .map(|it| (it.name.clone(), use_of(it, stemcell)))
            .collect();
        let use_ = match compiled {
            None => Use::Compile,
            Some(_) => packages.iter().map(|it| it.1).max().unwrap_or(Use::Exact),
        };
        let named = |wanted: Use| -> Vec<String> {
            let packages = compiled.into_iter().flatten();
            let found = packages.filter(|it| use_of(it, stemcell) == wanted);
            found
                .map(|it| format!("{} ({})", it.name, it.stemcell))
                .collect()
        };
        let text = format!("a Director does not use these packages on {stemcell}");
        findings.add_list(&STEMCELL_NOT_USED, &text, &named(Use::None));
        let text = format!("these packages were not compiled for {stemcell} itself");
        findings.add_list(&STEMCELL_FLOATING, &text, &named(Use::Floating));
        Self {
            stemcell: stemcell.clone(),
            use_,
            text: use_text(use_).to_owned(),
            exported_from: exported_from(stemcell, use_),
            packages,
        }
    }
}

fn use_of(package: &CompiledPackage, stemcell: &Slug) -> Use {
    let compiled_for = &package.stemcell;
    if compiled_for == stemcell {
        Use::Exact
    } else if compiled_for.os == stemcell.os
        && major(compiled_for.version.as_str()) == major(stemcell.version.as_str())
    {
        Use::Floating
    } else {
        Use::None
    }
}

fn use_text(use_: Use) -> &'static str {
    match use_ {
        Use::Exact => "a Director uses all compiled packages",
        Use::Floating => {
            "a Director uses the compiled packages only while it has no sources of them, because the major line is the same; \
             with sources, it compiles again"
        }
        Use::None => {
            "a Director does not use all compiled packages: the operating system or the major line differs"
        }
        Use::Compile => "a Director compiles the packages, because the release has only sources",
    }
}

fn exported_from(stemcell: &Slug, use_: Use) -> ExportedFrom {
    let text = match use_ {
        Use::Exact => format!(
            "a Director uses exactly these packages, for instance groups whose stemcell is {} {}.x; other groups fail",
            stemcell.os,
            major(stemcell.version.as_str())
        ),
        Use::Floating | Use::None => {
            "the deployment fails with error 60003, because not all packages were compiled for exactly this version"
                .to_owned()
        }
        Use::Compile => {
            "the deployment fails with error 60003, unless compiled packages for this version are uploaded too"
                .to_owned()
        }
    };
    let works = use_ == Use::Exact;
    ExportedFrom { works, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::Manifest;

    fn target(theirs: &[&str], stemcell: &str) -> (Target, Vec<&'static str>) {
        let packages = theirs.iter().enumerate().map(|(number, stemcell)| {
            format!("- {{name: p{number}, version: f1, sha1: '12', stemcell: {stemcell}}}\n")
        });
        let packages: String = packages.collect();
        let text = format!("name: demo\nversion: '1'\ncompiled_packages:\n{packages}");
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        let mut findings = Findings::default();
        let stemcell = Slug::parse(stemcell).unwrap();
        let target = Target::new(&manifest, &stemcell, &mut findings);
        let codes = findings.finish().iter().map(|it| it.rule.code).collect();
        (target, codes)
    }

    #[test]
    fn use_depends_on_the_worst_package() {
        for (theirs, stemcell, use_, codes) in [
            (&["jammy/1.406"][..], "jammy/1.406", Use::Exact, &[][..]),
            (
                &["jammy/1.406"],
                "jammy/1.5",
                Use::Floating,
                &["stemcell-floating"][..],
            ),
            (
                &["jammy/3312_1"],
                "jammy/3312.7",
                Use::Floating,
                &["stemcell-floating"],
            ),
            (
                &["jammy/1.406"],
                "jammy/2.1",
                Use::None,
                &["stemcell-not-used"],
            ),
            (
                &["jammy/1.406"],
                "noble/1.406",
                Use::None,
                &["stemcell-not-used"],
            ),
            (
                &["jammy/1.1", "jammy/1.2", "noble/1.1"],
                "jammy/1.1",
                Use::None,
                &["stemcell-not-used", "stemcell-floating"],
            ),
            (&[], "jammy/1.1", Use::Compile, &[]),
        ] {
            let (target, found) = target(theirs, stemcell);
            assert_eq!(target.use_, use_, "{theirs:?} on {stemcell}");
            assert_eq!(found, codes, "{theirs:?} on {stemcell}");
            assert_eq!(target.exported_from.works, use_ == Use::Exact);
        }
    }
}
