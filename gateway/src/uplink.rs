//! Which upstream hears of what: every shard has the whole list of subscribers.

use barrage_wire::upstream::EventKind;
use barrage_wire::upstream::events;

use crate::mail::ConnRef;

/// An upstream that asked for events or uplinks.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Its connection.
    pub at: ConnRef,
    /// Its app.
    pub app: u32,
    /// Bits of `wire::upstream::events`.
    pub events: u16,
    /// Members of a named group share the work.
    pub group: String,
    /// Uplink channels that it serves.
    pub channels: Vec<u16>,
}

/// Subscribers by app and group.
#[derive(Default)]
pub struct Subscribers {
    groups: Vec<Group>,
}

struct Group {
    app: u32,
    name: String,
    members: Vec<Subscriber>,
}

impl Subscribers {
    /// Adds a subscriber, or replaces what it asked for before.
    pub fn insert(&mut self, subscriber: Subscriber) {
        self.remove(subscriber.at);
        let found = self
            .groups
            .iter_mut()
            .find(|group| group.app == subscriber.app && group.name == subscriber.group);
        match found {
            Some(group) => group.members.push(subscriber),
            None => self.groups.push(Group {
                app: subscriber.app,
                name: subscriber.group.clone(),
                members: vec![subscriber],
            }),
        }
    }

    /// Removes a subscriber.
    pub fn remove(&mut self, at: ConnRef) {
        for group in &mut self.groups {
            group.members.retain(|member| member.at != at);
        }
        self.groups.retain(|group| !group.members.is_empty());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.members.len()).sum()
    }

    /// Who hears of an event of this user: one of each named group, and all without a group.
    pub fn for_event(&self, app: u32, bit: u16, user: u64) -> impl Iterator<Item = ConnRef> {
        self.groups.iter().filter(move |group| group.app == app).flat_map(move |group| {
            let named = !group.name.is_empty();
            let all = group.members.iter().filter(move |member| member.events & bit != 0);
            let one = if named { pick(all.clone(), user) } else { None };
            let all = all.filter(move |_| !named);
            one.into_iter().chain(all.map(|member| member.at))
        })
    }

    /// Who serves this user's uplinks on a channel: one of all that do, so that there is one answer.
    /// A user always gets the same one while nobody comes or goes, so that order is kept.
    pub fn for_uplink(&self, app: u32, channel: u16, user: u64) -> Option<ConnRef> {
        let groups = self.groups.iter().filter(move |group| group.app == app);
        let serves = |member: &&Subscriber| member.channels.contains(&channel);
        pick(groups.flat_map(|group| &group.members).filter(serves), user)
    }
}

/// The bit by which a subscriber asks for a kind of event.
pub fn event_bit(kind: EventKind) -> u16 {
    match kind {
        EventKind::Connect => events::CONNECT,
        EventKind::Disconnect => events::DISCONNECT,
        EventKind::Join => events::JOIN,
        EventKind::Leave => events::LEAVE,
    }
}

/// One of `members`, by user.
fn pick<'a>(
    mut members: impl Iterator<Item = &'a Subscriber> + Clone,
    user: u64,
) -> Option<ConnRef> {
    // Users are numbered by their service, often in a row: mixed, so that they spread.
    let mixed = user.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let index = mixed.checked_rem(members.clone().count() as u64)?;
    members.nth(index as usize).map(|member| member.at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_router::ShardIndex;
    use barrage_sys::ConnId;

    fn at(index: u32) -> ConnRef {
        ConnRef { shard: ShardIndex(0), conn: ConnId { index, generation: 0 } }
    }

    fn of(list: &[(u32, &str)]) -> Subscribers {
        let mut all = Subscribers::default();
        for &(index, group) in list {
            all.insert(Subscriber {
                at: at(index),
                app: 1,
                events: events::JOIN,
                group: group.to_owned(),
                channels: vec![7],
            });
        }
        all
    }

    #[test]
    fn a_group_shares_and_the_ungrouped_all_hear() {
        let all = of(&[(1, ""), (2, ""), (3, "a"), (4, "a"), (5, "b")]);
        let count = |user| all.for_event(1, events::JOIN, user).count();
        assert!((0..100).all(|user| count(user) == 4), "two without a group, one of a, one of b");
        assert_eq!(all.for_event(1, events::LEAVE, 1).count(), 0, "not asked for");
        assert_eq!(all.for_event(2, events::JOIN, 1).count(), 0, "another app");
        assert!((0..100).all(|user| all.for_uplink(1, 7, user).is_some()));
        assert_eq!(all.for_uplink(1, 8, 1), None, "nobody serves it");
    }

    #[test]
    fn users_spread_over_a_group_and_stay_where_they_are() {
        let all = of(&[(1, "a"), (2, "a")]);
        let who = |user| all.for_uplink(1, 7, user);
        let first = (0..1000).filter(|&user| who(user) == Some(at(1))).count();
        assert!((300..700).contains(&first), "{first} of 1000");
        assert!((0..1000).all(|user| who(user) == who(user)));
    }

    #[test]
    fn the_latest_subscription_counts() {
        let mut all = of(&[(1, "a")]);
        all.insert(Subscriber {
            at: at(1),
            app: 1,
            events: 0,
            group: "b".to_owned(),
            channels: vec![],
        });
        assert_eq!(all.len(), 1);
        assert_eq!(all.for_uplink(1, 7, 1), None);
        all.remove(at(1));
        assert_eq!(all.len(), 0);
    }
}
