//! After the play: keys that do to the running stores what the acts did.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::Screen;
use super::acts::Show;

/// The terminal's way of giving single keys; put back when dropped.
struct SingleKeys {
    before: String,
}

impl SingleKeys {
    fn start() -> Option<Self> {
        let before = stty(&["-g"])?;
        stty(&["-icanon", "-echo"])?;
        Some(Self { before: before.trim().to_owned() })
    }
}

impl Drop for SingleKeys {
    fn drop(&mut self) {
        stty(&[&self.before]);
    }
}

fn stty(args: &[&str]) -> Option<String> {
    let output = Command::new("stty").args(args).stdin(Stdio::inherit()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Stays live until `q`, Ctrl-C or `end`.
pub(crate) fn stay(
    show: &mut Show,
    screen: &mut Screen,
    end: Option<Instant>,
    interactive: bool,
) -> anyhow::Result<()> {
    let _keys = if interactive { SingleKeys::start() } else { None };
    let (send, keys) = channel();
    if interactive {
        screen.say("");
        screen.say("d cut or join a store   f flush Redis   k kill central   b sell the last units twice   q quit");
        // It ends with the process: a read of the terminal cannot be called off.
        std::thread::spawn(move || {
            for byte in std::io::stdin().lock().bytes() {
                let Ok(byte) = byte else { return };
                if send.send(byte).is_err() {
                    return;
                }
            }
        });
    }
    while !show.stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        match keys.recv_timeout(Duration::from_millis(200)) {
            Ok(b'd') => show.toggle(screen)?,
            Ok(b'f') => show.flush(screen)?,
            Ok(b'k') => show.kill_central(screen)?,
            Ok(b'b') => show.rush(screen)?,
            Ok(b'q') => return Ok(()),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => screen.status(&show.summary()),
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
    Ok(())
}
