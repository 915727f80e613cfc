//! What an opener finds: an engine, what it holds, and whether that is all that it held.

use crate::book::{Book, Ever};
use crate::clock::Dating;
use crate::dir::{Dir, Was};
use crate::engine::{Engine, Start, Sync};
use crate::error::{Error, Fault};
use crate::keys;
use crate::limits::HOLES_BATCH_MAX;
use crate::record::{Found, Options};
use crate::stats::{Damage, Shared};
use crate::witness::Witness;

pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) book: Book,
    pub(crate) dating: Dating,
    pub(crate) witness: Witness,
    pub(crate) found: Found,
}

/// Opens the engine of a directory and compares what it holds with what was written down about it.
/// Nothing left of something is an error, unless that is accepted; less than there was makes every
/// room doubtful. The clean mark stays until it is known that the store opens.
pub(crate) fn open(
    dir: &Dir,
    was: Was,
    options: &Options,
    shared: &Shared,
) -> Result<Opened, Error> {
    let (witness, said) = Witness::open(dir.path())?;
    let stored = said.unwrap_or_default();
    // Somebody has removed the mark of something that was more than an empty directory.
    let was = if was == Was::New && stored != Ever::default() { Was::Open } else { was };
    let records = said.map(|stored| stored.records);
    let opened = read(dir, options, if was == Was::New { Start::New } else { Start::Again });
    let mut opened = match opened {
        Ok(read) => match read.book.lost_since(&stored).filter(|lost| lost.all) {
            None => read,
            Some(_) => {
                // Its files are closed before they are moved.
                drop(read);
                begin_anew(dir, options, records, "nothing is left of it")?
            }
        },
        Err(fault) if was != Was::New && fault.is_damage() => {
            begin_anew(dir, options, records, &fault.why())?
        }
        Err(fault) => return Err(Error::Engine(fault.explain("opened", dir.path()))),
    };
    dir.mark_format_once()?;
    let lost = opened.book.lost_since(&stored);
    let is_all = match was {
        Was::New => opened.book.ever == Ever::default(),
        // Without a witness nobody knows.
        Was::Clean => said.is_some(),
        Was::Open => false,
    };
    dir.remove_clean_mark()?;
    let unwritten = |fault: Fault| Error::Engine(fault.explain("written", dir.path()));
    if let Some(lost) = lost {
        shared.set_damage(Damage::new(dir.path(), lost));
        let ever = &mut opened.book.ever;
        ever.epoch_max = ever.epoch_max.max(stored.epoch_max);
        doubt(&opened.engine, &mut opened.book).map_err(unwritten)?;
    }
    date(&mut opened, options).map_err(unwritten)?;
    let Read { engine, book, dating, mut found } = opened;
    found.clean = is_all && lost.is_none();
    (found.lost, found.epoch_max) = (lost, book.ever.epoch_max);
    let said = witness.say(&book.ever).and_then(|()| witness.sync());
    said.map_err(Error::io("writing down what is stored in", dir.path()))?;
    Ok(Opened { engine, book, dating, witness, found })
}

/// What an engine holds.
struct Read {
    engine: Engine,
    book: Book,
    dating: Dating,
    found: Found,
}

fn read(dir: &Dir, options: &Options, start: Start) -> Result<Read, Fault> {
    let engine = Engine::open(dir.path(), start)?;
    let (book, found) = Book::read(&engine.view(), options.clock)?;
    let row = engine.read(&keys::CLOCKS)?;
    let dating = row.map_or_else(|| Ok(Dating::default()), |row| Dating::decode(&row))?;
    Ok(Read { engine, book, dating, found })
}

/// Begins another history where one was, if that is accepted.
fn begin_anew(
    dir: &Dir,
    options: &Options,
    records: Option<u64>,
    why: &str,
) -> Result<Read, Error> {
    if !options.accept_lost {
        let (dir, why) = (dir.path().to_owned(), why.to_owned());
        return Err(Error::Lost { dir, why, records });
    }
    dir.set_aside()?;
    read(dir, options, Start::New)
        .map_err(|fault| Error::Engine(fault.explain("opened", dir.path())))
}

/// Begins the clock. What was dated by one that was behind is dated anew, at once or not at all.
fn date(read: &mut Read, options: &Options) -> Result<(), Fault> {
    let Read { engine, book, dating, found } = read;
    let newest_ms = book.newest_ms();
    found.clock = options.clock.not_before(newest_ms);
    let by_ms = dating.begin(found.clock, newest_ms);
    if by_ms == 0 {
        return Ok(());
    }
    let (mut draft, mut batch) = (book.draft(), engine.batch());
    batch.put(&keys::CLOCKS, &dating.encode());
    for (space, key, value) in &mut found.notes {
        if let Some(later) = (options.redate)(*space, key, value, by_ms) {
            batch.put(&keys::note_name(*space, key), &later);
            *value = later;
        }
    }
    draft.seal(&mut batch);
    engine.commit(batch, Sync::Now)?;
    book.apply(draft);
    Ok(())
}

/// Writes down that any room may have lost something.
fn doubt(engine: &Engine, book: &mut Book) -> Result<(), Fault> {
    let rooms = book.doubt_all();
    // Without rooms there is still the highest epoch.
    let parts = rooms.chunks(HOLES_BATCH_MAX).chain(rooms.is_empty().then_some(&[][..]));
    for rooms in parts {
        let (mut draft, mut batch) = (book.draft(), engine.batch());
        rooms.iter().for_each(|&room| draft.rewrite(book, room));
        draft.seal(&mut batch);
        engine.commit(batch, Sync::Now)?;
        book.apply(draft);
    }
    Ok(())
}
