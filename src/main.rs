//! The binary. All code is in the library.

fn main() -> std::process::ExitCode {
    bosh_agent::cli::main()
}
