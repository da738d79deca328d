//! The agent in unprivileged containers of a stemcell image. See `integration/README.md` for the requirements.

mod failures;
mod go_release;
mod hostile_scripts;
mod one_package;
mod pipelines;
mod resources;
mod restricted;
mod roots;
mod stemcell_image;
