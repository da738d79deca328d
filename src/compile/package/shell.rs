//! Opens an interactive shell in a package's sandbox: in place of the script (`--shell`), or after the script has failed
//! (`--shell-on-failure`).

use std::sync::Arc;

use super::work::{Work, stopped};
use crate::compile::error::{CompileError, ScriptFailure};
use crate::compile::event::Event;
use crate::compile::shell::{FailedRun, ShellWhen, Shells};
use crate::diag::Chain;
use crate::process::Status;
use crate::sandbox::{self, Script};

/// Bash executes this before the first prompt. Afterwards, programs have the same environment as in the script, and commands are not added
/// to the user's history.
const BEFORE_PROMPT: &str = "export -n PS1 PROMPT_COMMAND; unset PROMPT_COMMAND HISTFILE";

impl Work {
    /// Whether a shell is opened in place of the script.
    pub(super) fn has_shell_instead(&self) -> bool {
        let shells = self.context.shells.as_ref();
        shells.is_some_and(|it| it.shell.when == ShellWhen::Instead(self.job.name.clone()))
    }

    /// Opens a shell in place of the script. Always returns an error, because nothing is built.
    pub(super) async fn shell_instead(&self, confined: &Arc<Script>) -> CompileError {
        let Some(shells) = &self.context.shells else {
            return stopped(&self.job);
        };
        let ended = self.open_shell(shells, Arc::clone(confined), None).await;
        let updating = self.blocking_to_the_end("update", |work| work.update_kept());
        if let Ok(Err(error)) = updating.await {
            tracing::warn!(error = %Chain(&error), "could not keep the changes of the shell");
        }
        match ended {
            Ok(_) if shells.cancel.is_cancelled() => stopped(&self.job),
            Ok(_) => CompileError::ReplacedByShell {
                package: self.job.name.clone(),
            },
            Err(error) => error,
        }
    }

    /// Opens a shell in the sandbox of a failed script, if the user has requested this.
    pub(super) async fn shell_after(&self, failure: &ScriptFailure) {
        let shells = self.context.shells.as_ref();
        let shells = shells.filter(|it| it.shell.when == ShellWhen::AfterFailure);
        let script = self.summary().script.clone();
        let (Some(shells), Some(script)) = (shells, script) else {
            return;
        };
        let failed = FailedRun {
            failure: failure.to_string(),
            tail: failure.tail.clone(),
            log: failure.log.clone(),
        };
        if let Err(error) = self.open_shell(shells, script, Some(failed)).await {
            tracing::warn!(error = %Chain(&error), "could not open a shell in the sandbox of package {}", self.job.name);
        }
    }

    /// Waits until no other shell is open, opens a shell, and waits for its end. `None` if a cancellation prevented the shell.
    async fn open_shell(
        &self,
        shells: &Shells,
        confined: Arc<Script>,
        failed: Option<FailedRun>,
    ) -> Result<Option<Status>, CompileError> {
        let _turn = tokio::select! {
            turn = shells.turn.lock() => turn,
            () = self.cancel.cancelled() => return Ok(None),
        };
        if self.cancel.is_cancelled() {
            return Ok(None);
        }
        let shell = self.blocking_to_the_end("shell", move |work| {
            // The script may have replaced a directory by a link to a directory of the host.
            work.check_directories(&[])?;
            work.shell_script(&confined)
        });
        let shell = shell.await??;
        (self.context.events)(Event::ShellOpened {
            job: self.job.number,
            package: self.job.name.clone(),
            failed,
        });
        let ended = sandbox::run_on_terminal(shell, &shells.shell.terminal, &shells.cancel).await;
        (self.context.events)(Event::ShellEnded {
            job: self.job.number,
            package: self.job.name.clone(),
        });
        match ended {
            Ok(end) => Ok(Some(end.status)),
            Err(source) => Err(CompileError::Sandbox {
                package: self.job.name.clone(),
                source,
            }),
        }
    }

    /// The script that runs the shell, with the restrictions of the packaging script.
    fn shell_script(&self, confined: &Script) -> Result<Script, CompileError> {
        self.startable(confined, |script| {
            script.spec.program = "bash".to_owned();
            script.spec.arguments = ["--noprofile", "--norc", "-i"].map(Into::into).to_vec();
            let prompt = format!("{}:\\w\\$ ", self.job.name);
            script.environment = script.environment.with(&[
                ("PS1", prompt.into()),
                ("PROMPT_COMMAND", BEFORE_PROMPT.into()),
            ]);
        })
    }
}
