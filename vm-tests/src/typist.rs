//! Who sits at the keyboard? One who waits for words on the console, a prompt mostly, and types then.

use std::io::Write;
use std::process::ChildStdin;
use std::time::{Duration, Instant};

use crate::outcome::{Doing, Result, Stop};

/// Words on the console, and what is typed when they stand there.
pub(crate) type Answer = (&'static str, &'static str);

/// Who shows a prompt may set the terminal up only then, and forget what was typed before.
const PAUSE: Duration = Duration::from_secs(2);

/// Gives answers in their order, each once.
#[derive(Debug)]
pub(crate) struct Typist<'a, Keyboard = ChildStdin> {
    keyboard: Option<Keyboard>,
    answers: &'a [Answer],
    /// How much of the console is dealt with.
    seen: usize,
    /// Since when the words stand there.
    since: Option<Instant>,
}

impl<'a, Keyboard: Write> Typist<'a, Keyboard> {
    /// One who has typed nothing yet; who has no answers needs no keyboard.
    pub(crate) fn new(keyboard: Option<Keyboard>, answers: &'a [Answer]) -> Self {
        Typist { keyboard, answers, seen: 0, since: None }
    }

    /// Looks at all that the machine has said so far, and types if it is time.
    pub(crate) fn look(&mut self, said: &[u8], now: Instant) -> Result<()> {
        let Some(((words, keys), later)) = self.answers.split_first() else { return Ok(()) };
        let Some(since) = self.since else {
            let rest = said.get(self.seen..).unwrap_or_default();
            let there = rest.windows(words.len()).any(|window| window == words.as_bytes());
            self.since = there.then_some(now);
            return Ok(());
        };
        if now.duration_since(since) < PAUSE {
            return Ok(());
        }
        let keyboard = self.keyboard.as_mut();
        let keyboard = keyboard.ok_or(Stop::Failed("the machine has no keyboard".into()))?;
        keyboard.write_all(keys.as_bytes()).doing("cannot type")?;
        (self.answers, self.seen, self.since) = (later, said.len(), None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_waits_for_its_own_words() {
        let mut typist = Typist::new(Some(Vec::new()), &[("Name? ", "a\n"), ("# ", "b\n")]);
        let mut now = Instant::now();
        let mut typed = |said: &str, later: Duration| {
            now += later;
            typist.look(said.as_bytes(), now).unwrap();
            String::from_utf8(typist.keyboard.clone().unwrap()).unwrap()
        };
        assert_eq!(typed("a # of words, Name", PAUSE), "");
        assert_eq!(typed("a # of words, Name? ", PAUSE), "");
        assert_eq!(typed("a # of words, Name? ", PAUSE / 2), "", "it takes its time");
        assert_eq!(typed("a # of words, Name? ", PAUSE), "a\n");
        assert_eq!(typed("a # of words, Name? a", PAUSE), "a\n");
        assert_eq!(typed("a # of words, Name? a", PAUSE), "a\n", "what stood there is past");
        assert_eq!(typed("a # of words, Name? a\n/ # ", PAUSE), "a\n");
        assert_eq!(typed("a # of words, Name? a\n/ # ", PAUSE), "a\nb\n");
        assert_eq!(typed("a # of words, Name? a\n/ # # # ", PAUSE * 9), "a\nb\n");
    }
}
