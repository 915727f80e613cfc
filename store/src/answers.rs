//! How the store's threads answer clients.

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::client::Done;

/// Called when a client has something to fetch. From the store's threads, so it must be short.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// One thread's way to every client.
pub(crate) struct Answers {
    clients: Vec<Answer>,
    wakes: Arc<[Wake]>,
}

#[derive(Clone)]
struct Answer {
    done: Sender<Done>,
    /// Something was sent since the last wake.
    told: bool,
}

impl Answers {
    pub(crate) fn new(done: Vec<Sender<Done>>, wakes: Arc<[Wake]>) -> Self {
        let clients = done.into_iter().map(|done| Answer { done, told: false }).collect();
        Self { clients, wakes }
    }

    pub(crate) fn clone_for_other_thread(&self) -> Self {
        Self { clients: self.clients.clone(), wakes: Arc::clone(&self.wakes) }
    }

    /// Answers a token. A client that is gone needs no answer; one that is there has room, because
    /// it has reserved it with the token.
    pub(crate) fn tell(&mut self, client: usize, done: Done) {
        let answer = &mut self.clients[client];
        answer.told |= answer.done.try_send(done).is_ok();
    }

    /// Wakes those who were told something.
    pub(crate) fn wake(&mut self) {
        for (answer, wake) in self.clients.iter_mut().zip(self.wakes.iter()) {
            if std::mem::take(&mut answer.told) {
                wake();
            }
        }
    }

    /// Wakes everybody: the state has changed.
    pub(crate) fn wake_all(&self) {
        self.wakes.iter().for_each(|wake| wake());
    }
}
