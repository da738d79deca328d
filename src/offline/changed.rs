//! Warnings about installed packages and copies of them that were changed after they had been installed.

use crate::compile::Changed;
use crate::release::Name;

/// The files of an installed package were changed and have been reinstalled.
pub(super) fn tree(package: &Name, changed: &Changed) -> String {
    format!(
        "Warning: the files of package {package} were changed after it was installed: {}. It is reinstalled from its compiled package.\n\
         Since its last check, {}",
        changed.difference, changed.suspects
    )
}

/// A copy of an installed package was changed and has been replaced.
pub(super) fn copy(package: &Name, changed: &Changed) -> String {
    format!(
        "Warning: the copy of package {package} that its dependents share was changed: {}. It is copied again.\n\
         Since its last check, {}",
        changed.difference, changed.suspects
    )
}

/// A copy of a dependency was changed while a package was compiled against it.
pub(super) fn copy_in_use(package: &Name, dependency: &Name, changed: &Changed) -> String {
    format!(
        "Warning: the copy of package {dependency} was changed while package {package} was compiled against it: {}. The change may have affected package {package}.\n\
         Since the copy's last check, {}",
        changed.difference, changed.suspects
    )
}
