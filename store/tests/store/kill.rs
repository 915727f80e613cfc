//! A process that is killed while it writes: what it was told is stored is there.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use barrage_store::{Done, Position};

use crate::world::{Random, Store, TempDir, record, room};

const ROUNDS: u64 = 30;
const ROOMS: u64 = 5;
const DIR: &str = "BARRAGE_STORE_KILL_DIR";
const COUNT_NOTE: &[u8] = b"count";

#[test]
fn what_was_stored_survives_a_kill() {
    let dir = TempDir::new("kill");
    let mut random = Random(0x5eed);
    let mut told = Told::default();
    let mut rounds_told = 0;
    for round in 0..ROUNDS {
        // Some are killed before the first answer, some while the store opens.
        let lines = random.below(500).saturating_sub(50);
        let before = told.count;
        told.listen(start(&dir.0), lines, random.below(4) == 0);
        rounds_told += u64::from(told.count > before);
        told.check(&dir.0, round);
    }
    assert!(rounds_told > ROUNDS / 2, "only {rounds_told} children said anything");
}

/// What children were told is stored.
#[derive(Default)]
struct Told {
    /// The last number by room and epoch.
    last: HashMap<(u64, u64), u64>,
    count: u64,
}

impl Told {
    /// Hears a child out until `lines`, then kills it, and hears what it has said until then.
    fn listen(&mut self, mut child: Child, lines: u64, at_once: bool) {
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        if !at_once {
            for line in output.by_ref().take(lines as usize + 3) {
                self.hear(&line.unwrap());
            }
        }
        child.kill().unwrap();
        let rest: Vec<String> = output.map(Result::unwrap).collect();
        // The last line may be cut.
        for line in rest.split_last().map_or(&[][..], |(_, whole)| whole) {
            self.hear(line);
        }
        child.wait().unwrap();
    }

    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        if words.next() != Some("stored") {
            return;
        }
        let mut word = || words.next().and_then(|word| word.parse().ok()).expect("a number");
        let (id, epoch, seq, count) = (word(), word(), word(), word());
        self.last.insert((id, epoch), seq);
        self.count = self.count.max(count);
    }

    fn check(&self, dir: &Path, round: u64) {
        let mut store = Store::open(dir);
        assert!(round == 0 || !store.found.clean, "round {round}");
        let mut found: HashMap<(u64, u64), u64> = HashMap::new();
        for id in 0..ROOMS {
            let page = store.all(room(id));
            assert_eq!(page.floor, Position::default(), "nothing is missing, round {round}");
            for kept in &page.records {
                let (epoch, seq) = (kept.at.epoch, kept.at.seq);
                let last = found.entry((id, epoch)).or_default();
                assert_eq!(seq, *last + 1, "a gap in room {id}, epoch {epoch}, round {round}");
                assert_eq!(kept.frame, record(id, epoch, seq).frame);
                *last = seq;
            }
        }
        for (place, &seq) in &self.last {
            assert!(found.get(place) >= Some(&seq), "{place:?} lost {seq}, round {round}");
        }
        let note = store.found.notes.iter().find(|(_, key, _)| key == COUNT_NOTE);
        let count =
            note.map_or(0, |(_, _, value)| u64::from_le_bytes(value[..].try_into().unwrap()));
        assert!(count >= self.count, "the note says {count}, round {round}");
        // Not closed either, as if the checker had been killed too.
        drop((store.client, store.keeper));
        wait_until_free(dir);
    }
}

fn wait_until_free(dir: &Path) {
    let lock = std::fs::File::open(dir.join("lock")).unwrap();
    lock.lock().unwrap();
}

fn start(dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["kill::child", "--exact", "--ignored", "--nocapture"]).env(DIR, dir);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "a part of what_was_stored_survives_a_kill, which runs it in a process of its own"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut store = Store::open(&PathBuf::from(dir));
    let epoch = store.found.epoch_max + 1;
    let mut random = Random(epoch);
    let mut next = [1; ROOMS as usize];
    let mut open = HashMap::new();
    for token in 0.. {
        // In bursts, so that batches are of all sizes.
        for _ in 0..=random.below(20) {
            let id = random.below(ROOMS);
            let seq = next[id as usize];
            store.client.append(record(id, epoch, seq), None).unwrap();
            next[id as usize] += 1;
        }
        let id = random.below(ROOMS);
        let seq = next[id as usize];
        next[id as usize] += 1;
        let count = (epoch << 32) + token;
        open.insert(token, (id, seq, count));
        store.client.put_note(0, COUNT_NOTE, &count.to_le_bytes(), None).unwrap();
        store.client.append(record(id, epoch, seq), Some(token)).unwrap();
        while open.len() > random.below(8) as usize {
            let Done::Stored { token } = store.next() else { panic!("the disk is fine") };
            let (id, seq, count) = open.remove(&token).unwrap();
            writeln!(std::io::stdout(), "stored {id} {epoch} {seq} {count}").unwrap();
        }
    }
}
