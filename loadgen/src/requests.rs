//! Publishes that wait for their answer, by request number.

/// What is known about each publish that was not answered yet. The gateway's credits bound them.
#[derive(Debug)]
pub struct Requests<T> {
    open: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Requests<T> {
    fn default() -> Self {
        Self { open: Vec::new(), free: Vec::new() }
    }
}

impl<T> Requests<T> {
    /// Opens a request; its number, which is used again after it was answered.
    pub fn open(&mut self, what: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.open[number as usize] = Some(what);
            return number;
        }
        self.open.push(Some(what));
        self.open.len() as u32 - 1
    }

    /// The answer to a request has come; none when nobody waits for it.
    pub fn close(&mut self, number: u32) -> Option<T> {
        let what = self.open.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(what)
    }

    /// How many wait for their answer.
    pub fn unanswered(&self) -> u64 {
        (self.open.len() - self.free.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_once_and_its_number_used_again() {
        let mut requests = Requests::default();
        assert_eq!((requests.open('a'), requests.open('b')), (0, 1));
        assert_eq!(
            (requests.close(0), requests.close(0), requests.close(9)),
            (Some('a'), None, None)
        );
        assert_eq!((requests.unanswered(), requests.open('c'), requests.unanswered()), (1, 0, 2));
        assert_eq!((requests.close(1), requests.close(0)), (Some('b'), Some('c')));
    }
}
