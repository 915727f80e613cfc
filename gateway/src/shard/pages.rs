//! Pages of what was said, for those who ask for them.

use std::collections::VecDeque;

use barrage_router::RoomKey;
use barrage_store::{From, Load, Page, Position};
use barrage_wire::limits::HISTORY_PAGE_MAX;
use barrage_wire::server::Code;
use bytes::Bytes;

use super::core::Core;
use super::history::oldest;
use crate::limits::{PAGE_BYTES_MAX, PAGES_AT_ONCE_MAX, PAGES_WAITING_MAX};
use crate::mail::{ConnRef, HistoryAsk, Mail};
use crate::past;

/// Pages whose turn comes, and how many the disk is asked for.
#[derive(Default)]
pub(super) struct Pages {
    waiting: VecDeque<(Load, PageAsk)>,
    loading: usize,
}

/// Somebody who wants to see what was said.
#[derive(Clone, Copy)]
pub(super) struct PageAsk {
    pub who: ConnRef,
    pub request: u32,
    pub by_upstream: bool,
    /// Where the room was when it was asked for: pages lead at least up to there.
    head: Option<Position>,
}

impl Core {
    /// Somebody wants to see what was said.
    pub(super) fn home_history(
        &mut self,
        who: ConnRef,
        request: u32,
        key: RoomKey,
        ask: HistoryAsk,
        by_upstream: bool,
    ) {
        if self.history.is_none() {
            return self.refuse_page(who, request, by_upstream, Code::Unstored);
        }
        let frames_max = usize::from(ask.count).min(HISTORY_PAGE_MAX);
        // A room in which nothing was ever said is not made for it.
        let is_known = self.history.as_ref().is_some_and(|history| history.has_room_of(key));
        let made = if is_known { self.home_room(key) } else { None };
        let head = made.or(self.homes.by_key.get(&key).copied()).map(|index| {
            let room = &self.homes.rooms[index as usize].room;
            Position { epoch: room.epoch(), seq: room.head() }
        });
        let from = match ask.epoch {
            0 => From::Since(ask.since_ms),
            epoch => From::After(Position { epoch, seq: ask.from.saturating_sub(1) }),
        };
        let load = Load { room: key, from, frames_max, bytes_max: PAGE_BYTES_MAX };
        let ask = PageAsk { who, request, by_upstream, head };
        let Some(history) = &mut self.history else { return };
        if history.pages.waiting.len() >= PAGES_WAITING_MAX {
            return self.refuse_page(who, request, by_upstream, Code::Overloaded);
        }
        history.pages.waiting.push_back((load, ask));
        self.load_pages();
    }

    /// Asks the disk for pages, not for too many at once: each may be a megabyte.
    fn load_pages(&mut self) {
        while let Some(history) = &mut self.history
            && history.pages.loading < PAGES_AT_ONCE_MAX
            && let Some((load, ask)) = history.pages.waiting.pop_front()
        {
            if history.load_page(load, ask) {
                history.pages.loading += 1;
            } else {
                self.refuse_page(ask.who, ask.request, ask.by_upstream, Code::Overloaded);
            }
        }
    }

    /// A page has come, or cannot.
    pub(super) fn end_page(&mut self) {
        if let Some(history) = &mut self.history {
            history.pages.loading -= 1;
        }
        self.load_pages();
    }

    pub(super) fn refuse_page(
        &mut self,
        who: ConnRef,
        request: u32,
        by_upstream: bool,
        code: Code,
    ) {
        let end = past::End { code, ..past::End::default() };
        let frames = vec![past::encode_end(request, &end, by_upstream)];
        self.post.send(who.shard, Mail::Page { conn: who.conn, frames });
    }

    pub(super) fn send_page(&mut self, ask: PageAsk, page: Page) {
        let PageAsk { who, request, by_upstream, head } = ask;
        let Position { epoch, seq: head } = head.unwrap_or(page.end);
        let behind = |at: Position| Position { epoch: at.epoch, seq: at.seq + 1 };
        // Whoever wants no messages is led nowhere: the next page would be the same.
        let next = page.records.last().filter(|_| page.more).map(|last| behind(last.at));
        let end = past::End { code: Code::Ok, epoch, oldest: oldest(&page, epoch), head, next };
        let said = page.records.iter().filter_map(|it| past::encode(request, it, by_upstream));
        let mut frames: Vec<Bytes> = said.collect();
        frames.push(past::encode_end(request, &end, by_upstream));
        self.post.send(who.shard, Mail::Page { conn: who.conn, frames });
    }
}
