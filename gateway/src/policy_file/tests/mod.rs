//! What a policy file may say.

mod refused;

use std::path::PathBuf;

use barrage_router::{Aggregation, Category, Class, Keep, Retention};

use super::*;
use crate::filter::{Verdict, What};

/// The only file that there is, beside the policy.
const WORDS: &[u8] = b"\xef\xbb\xbfplum\r\n  # fruit\n\n pear \nno # comment";

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    match path.to_str().unwrap() {
        "etc/words.txt" => Ok(WORDS.to_vec()),
        "/abs/latin1.txt" => Ok(b"ok\nna\xefve\n".to_vec()),
        "etc/bad.txt" => Ok(format!("fine\nf*ne\n\n{}\n", "x".repeat(200)).into_bytes()),
        "etc/long.txt" => {
            let words: Vec<String> = (0..100_001).map(|number| number.to_string()).collect();
            Ok(words.join("\n").into_bytes())
        }
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

fn parsed(text: &str) -> Result<Rules, PolicyError> {
    parse(text, "etc/policy.toml", &read_file)
}

#[track_caller]
fn policy(text: &str) -> Policy {
    parsed(text).unwrap_or_else(|error| panic!("{text}\n{error}")).policy
}

/// A category with all that it needs, and these lines.
fn category(lines: &str) -> String {
    format!("[[category]]\nid = 9\nname = \"nine\"\nclass = \"P2\"\n{lines}")
}

#[test]
fn the_default_file_is_the_builtin_policy() {
    let rules = parsed(DEFAULT).unwrap();
    assert_eq!(rules.policy, Policy::builtin());
    assert_eq!(rules.policy, builtin().policy);
    assert!(rules.filter.is_empty() && builtin().filter.is_empty());
    assert_eq!(policy(""), Policy::builtin());
}

#[test]
fn what_the_default_file_only_explains_can_be_said() {
    let table = |name: &str| {
        let (_, rest) = DEFAULT.split_once(&format!("# [[{name}]]\n")).unwrap();
        let lines = rest.lines().map(|line| line.trim_start_matches("# ").trim_start_matches('#'));
        let said = lines.filter(|line| line.contains(" = "));
        said.fold(format!("[[{name}]]\n"), |text, line| text + line + "\n")
    };
    let filter = parsed(&table("filter")).unwrap().filter;
    let verdict = filter.check(1, What::Category(4), b"PLUM and Spam");
    assert_eq!(verdict, Verdict::Mask { payload: b"**** and ****".to_vec(), flagged: None });
    let rates = policy("[quotas]\nuser = \"20/s\"\nuser-burst = 40\napp = \"50000/s\"").quotas;
    assert_eq!(rates.user, Rate { per_second: 20, burst: 40 });
    assert_eq!(rates.app, Rate { per_second: 50_000, burst: 50_000 });
}

#[test]
fn what_is_said_counts_and_the_rest_is_as_it_was() {
    let check = |text: &str, change: fn(&mut Policy)| {
        let mut expected = Policy::builtin();
        change(&mut expected);
        assert_eq!(policy(text), expected, "{text}");
    };
    check("[levels]\nfrom = [1, 2, 4294967295]", |policy| policy.levels.from = [1, 2, u32::MAX]);
    check("[levels]\ndwell = \"1500ms\"", |policy| policy.levels.dwell_ms = 1500);
    check("levels.dwell = \"2m\"\nlevels.dwell-max = \"2m\"", |policy| {
        policy.levels.dwell_ms = 120_000;
        policy.levels.dwell_max_ms = 120_000;
    });
    check(
        "merge = { combo-gap = \"5s\", combo-every = \"10ms\", state-every = \"1m\" }",
        |policy| {
            policy.merge.combo_gap_ms = 5_000;
            policy.merge.combo_every_ms = 10;
            policy.merge.state_every_ms = 60_000;
        },
    );
    check("[inbox]\nretry-after = \"1h\"\ntries = 10\nttl = \"365d\"\nmessages = 1", |policy| {
        policy.inbox.retry_after_ms = 3_600_000;
        policy.inbox.tries = 10;
        policy.inbox.ttl_s = 31_536_000;
        policy.inbox.messages_max = 1;
    });
    check("[egress]\nbytes-per-second = \"600MB\"", |policy| {
        policy.egress_bytes_per_second = 600_000_000;
    });
    check("[egress]\nbytes-per-second = 0x1_0", |policy| policy.egress_bytes_per_second = 16);
    check("[egress]\nbytes-per-second = \"3KiB\"", |policy| policy.egress_bytes_per_second = 3072);
    check(
        "[devices]\nios = 1\nandroid = 2\nweb = 3\ndesktop = 4\nbot = 5\nunknown = 6",
        |policy| {
            policy.devices = [6, 1, 2, 3, 4, 5];
        },
    );
    check("[quotas]\nuser = \"unlimited\"", |_| {});
    check("filter = []", |_| {});
}

#[test]
fn devices_stand_at_the_protocols_numbers() {
    use barrage_wire::client::Platform;
    let devices = policy("[devices]\nios = 1\nandroid = 2\nweb = 3\ndesktop = 4\nbot = 5").devices;
    let platforms = [
        Platform::Unknown,
        Platform::Ios,
        Platform::Android,
        Platform::Web,
        Platform::Desktop,
        Platform::Bot,
    ];
    for platform in platforms {
        assert_eq!(devices[platform as usize], platform as u16, "{platform:?}");
    }
}

#[test]
fn categories_are_those_of_the_file() {
    let plain = Category {
        id: 9,
        class: Class::P2,
        never_drop: false,
        aggregation: Aggregation::None,
        limits: [Rate::UNLIMITED; 4],
        inbox: false,
        keep: Keep::Disk,
        retention: Retention { age_s: 86_400, count: 0, bytes: 0 },
    };
    let check = |lines: &str, change: fn(&mut Category)| {
        let mut expected = plain;
        change(&mut expected);
        let policy = policy(&category(lines));
        let categories: Vec<&Category> = policy.categories().collect();
        assert_eq!(categories, [&expected], "{lines}");
        assert_eq!(policy.name(9), "nine");
    };
    check("", |_| {});
    check("never-drop = true\ninbox = true", |category| {
        category.never_drop = true;
        category.inbox = true;
    });
    check("aggregation = \"latest\"", |category| category.aggregation = Aggregation::Latest);
    check(
        "limits = [\"unlimited\", \"9/s\", \"9/s\", \"1/s\"]\nburst = [0, 12, 0, 3]",
        |category| {
            let rate = |per_second, burst| Rate { per_second, burst };
            category.limits = [Rate::UNLIMITED, rate(9, 12), rate(9, 9), rate(1, 3)];
        },
    );
    check("history = \"memory\"", |category| {
        category.keep = Keep::Memory;
        category.retention = Retention::default();
    });
    check("keep-age = \"3650d\"\nkeep-count = 7\nkeep-bytes = \"10GB\"", |category| {
        category.retention = Retention { age_s: 315_360_000, count: 7, bytes: 10_000_000_000 };
    });
    check("keep-age = 0", |category| category.retention.age_s = 0);
    check("keep-age = \"0s\"", |category| category.retention.age_s = 0);
}

#[test]
fn filters_come_from_the_text_and_from_files() {
    let text = "[[filter]]\napp = 1\naction = \"reject\"\nfile = \"words.txt\"\nwords = [\"fig\"]\n\
                [[filter]]\napp = 1\naction = \"flag\"\nwords = [\"date\"]\nuplinks = true\n\
                [[filter]]\napp = 2\naction = \"mask\"\nwords = [\"fig\"]\ncategories = [4]\n\
                [[filter]]\napp = 3\naction = \"mask\"\nwords = []";
    let filter = parsed(text).unwrap().filter;
    let check = |app, what, payload: &str, expected| {
        assert_eq!(filter.check(app, what, payload.as_bytes()), expected, "{app} {payload}");
    };
    let chat = What::Category(4);
    for word in ["plum", "pear", "no # comment", "fig"] {
        check(1, chat, &format!("a {word}"), Verdict::Reject { word });
        check(1, What::Uplink, word, Verdict::Pass);
    }
    check(1, chat, "# fruit", Verdict::Pass);
    check(1, chat, "date", Verdict::Flag { word: "date" });
    check(1, What::Uplink, "date", Verdict::Flag { word: "date" });
    check(2, chat, "fig", Verdict::Mask { payload: b"***".to_vec(), flagged: None });
    check(2, What::Category(5), "fig", Verdict::Pass);
    check(3, chat, "fig", Verdict::Pass);
}

/// No text, however it is mutilated, ends the process.
#[test]
fn any_piece_of_a_file_is_read_or_refused() {
    let text = format!("{DEFAULT}\n[[filter]]\napp = 1\nwords = [\"a\"]\naction = \"mask\"");
    for at in (0..text.len()).step_by(13) {
        for cut in [0, 1, 40] {
            let end = (at + cut).min(text.len());
            let pieces = [&text[..at], &text[end..]];
            let _ = parsed(pieces[0]);
            let _ = parsed(pieces[1]);
            if let Err(error) = parsed(&pieces.concat()) {
                assert!(!error.problems.is_empty());
            }
        }
    }
}

#[test]
fn files_are_loaded_with_their_word_lists() {
    let folder = std::env::temp_dir().join(format!("barrage-policy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    file("list.txt", b"pear\n");
    let good = file(
        "good.toml",
        b"inbox.tries = 5\n[[filter]]\napp = 1\naction = \"reject\"\nfile = \"list.txt\"",
    );
    let rules = load(&good).unwrap();
    assert_eq!(rules.policy.inbox.tries, 5);
    let verdict = rules.filter.check(1, What::Category(0), b"a pear");
    assert_eq!(verdict, Verdict::Reject { word: "pear" });

    let problem = |path: &Path| load(path).unwrap_err().to_string();
    let bad = file("bad.toml", b"inbox.tries = 5\n# caf\xe9");
    assert_eq!(problem(&bad), format!("{}:2: this is not UTF-8", bad.display()));
    let long = file("long.toml", &vec![b'\n'; FILE_BYTES_MAX as usize + 1]);
    let says = format!("{}: cannot be read: it has more than 8388608 bytes", long.display());
    assert_eq!(problem(&long), says);
    let absent = problem(&folder.join("absent.toml"));
    assert!(absent.contains("absent.toml: cannot be read: No such file"), "{absent}");
    std::fs::remove_dir_all(&folder).unwrap();
}
