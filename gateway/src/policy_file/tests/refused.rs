//! Every sentence about what a policy file may not say.

use super::{category, parsed};

/// The text has exactly these problems; the file's name is left out where it is the policy's.
#[track_caller]
fn refused(text: &str, says: &[&str]) {
    let error = parsed(text).expect_err(text);
    let problems: Vec<&str> = error
        .problems
        .iter()
        .map(|problem| problem.strip_prefix("etc/policy.toml:").unwrap_or(problem))
        .collect();
    assert_eq!(problems, says, "{text}");
}

#[test]
fn what_is_not_toml_or_not_a_field_is_refused() {
    refused("[levels\n", &["1: this is not TOML: unclosed table, expected `]`"]);
    refused("[levels]\n[levels]\n", &["2: this is not TOML: duplicate key"]);
    refused("\n\nlevels = 3", &["3: levels: not a table; say `[levels]`"]);
    refused("[category]\nid = 1", &["1: category: say `[[category]]` before each"]);
    let none = "1: category: there has to be one; for the built-in categories leave it out";
    refused("category = []", &[none]);
    refused("filter = [1]", &["1: filter: not a table; say `[[filter]]` before each"]);
    refused("[level]\n", &["1: level: no such field; did you mean `levels`?"]);
    refused(
        "[levels]\nfrom = [1, 2, 3]\nDwell_Max = \"1s\"",
        &["3: levels.Dwell_Max: no such field; did you mean `dwell-max`?"],
    );
    refused(
        "[egress]\nshare = 1",
        &["2: egress.share: no such field; there are `bytes-per-second`"],
    );
    refused(
        &category("clas = \"P1\""),
        &["5: category.clas: no such field; did you mean `class`?"],
    );
    refused(
        "[[filter]]\napp = 1\naction = \"flag\"\nword = [\"a\"]",
        &[
            "1: filter.words: missing; every filter needs `words`, `file` or both",
            "4: filter.word: no such field; did you mean `words`?",
        ],
    );
}

#[test]
fn bad_values_are_refused_with_what_is_allowed() {
    let check = |table: &str, field: &str, value: &str, says: &str| {
        let says = format!("3: {table}.{field}: {says}");
        refused(&format!("[{table}]\n# why\n{field} = {value}"), &[&says]);
    };
    let time = "is not a time; say a whole number and ms, s, m, h or d, such as \"10s\"";
    check("levels", "dwell", "\"10x\"", &format!("\"10x\" {time}"));
    check("levels", "dwell", "\"10 s\"", &format!("\"10 s\" {time}"));
    check("levels", "dwell", "\"s\"", &format!("\"s\" {time}"));
    check("levels", "dwell", "\"-1s\"", &format!("\"-1s\" {time}"));
    check("levels", "dwell", "\"10\"", &format!("\"10\" {time}"));
    check("levels", "dwell", "10", &format!("10 {time}"));
    check("levels", "dwell", "[]", &format!("a list {time}"));
    check("levels", "dwell", "1.5", &format!("a number with a fraction {time}"));
    check("levels", "dwell", "1979-05-27", &format!("a date {time}"));
    let between = "is out of range; between \"100ms\" and \"1h\" is allowed";
    check("levels", "dwell", "\"99ms\"", &format!("\"99ms\" {between}"));
    check("levels", "dwell", "\"2h\"", &format!("\"2h\" {between}"));
    let ages = format!("\"{}s\"", "9".repeat(20));
    check("levels", "dwell", &ages, &format!("{ages} {between}"));
    let less = "dwell is 161000 ms, and dwell-max is 160000 ms, which is less";
    check("levels", "dwell", "\"161s\"", less);
    let less = "dwell is 10000 ms, and dwell-max is 9000 ms, which is less";
    check("levels", "dwell-max", "\"9s\"", less);
    check("levels", "from", "7", "7 is not a list");
    check("levels", "from", "[1, 2]", "2 values; 3 are needed, one for each of L2, L3 and L4");
    check("levels", "from", "[1, 3, 3]", "3 comes after 3; they have to rise");
    let between = "is out of range; between 1 and 4294967295 is allowed";
    check("levels", "from", "[0, 1, 2]", &format!("0 {between}"));
    check("levels", "from", "[1, 2, 4294967296]", &format!("4294967296 {between}"));
    let between = "is out of range; between \"10ms\" and \"1m\" is allowed";
    check("merge", "combo-gap", "\"9ms\"", &format!("\"9ms\" {between}"));
    check("merge", "combo-every", "\"2m\"", &format!("\"2m\" {between}"));
    check("merge", "state-every", "\"1d\"", &format!("\"1d\" {between}"));
    check("inbox", "tries", "0", "0 is out of range; between 1 and 10 is allowed");
    check("inbox", "tries", "11", "11 is out of range; between 1 and 10 is allowed");
    check("inbox", "tries", "\"3\"", "\"3\" is not a whole number");
    check("inbox", "messages", "65536", "65536 is out of range; between 1 and 65535 is allowed");
    check("inbox", "ttl", "\"1500ms\"", "\"1500ms\" is not whole seconds");
    let between = "is out of range; between \"1s\" and \"365d\" is allowed";
    check("inbox", "ttl", "\"366d\"", &format!("\"366d\" {between}"));
    let between = "is out of range; between \"1s\" and \"1h\" is allowed";
    check("inbox", "retry-after", "\"10ms\"", &format!("\"10ms\" {between}"));
    let rate = "is not a rate; say for example \"20/s\", or \"unlimited\"";
    check("quotas", "user", "\"20\"", &format!("\"20\" {rate}"));
    check("quotas", "user", "\"/s\"", &format!("\"/s\" {rate}"));
    check("quotas", "user", "\"+2/s\"", &format!("\"+2/s\" {rate}"));
    check("quotas", "app", "20", &format!("20 {rate}"));
    check("quotas", "app", "\"0/s\"", "\"0/s\" would let nothing through; say at least \"1/s\"");
    let much = "\"4294967296/s\" is too much; say \"unlimited\"";
    check("quotas", "app", "\"4294967296/s\"", much);
    let alone = "there is no rate for it to go with; say `user` too, or leave it out";
    check("quotas", "user-burst", "40", alone);
    let between = "is out of range; between 1 and 4294967295 is allowed";
    check("quotas", "app-burst", "0", &format!("0 {between}"));
    let size = "is not a size; say a whole number and B, KB, MB, GB or TB, such as \"10GB\"";
    check("egress", "bytes-per-second", "\"600mb\"", &format!("\"600mb\" {size}"));
    let much = "\"99999999999999TB\" is too much; say at most \"18446744TB\"";
    check("egress", "bytes-per-second", "\"99999999999999TB\"", much);
    let nines = "9".repeat(30);
    let much = format!("\"{nines}TB\" is too much; say at most \"18446744TB\"");
    check("egress", "bytes-per-second", &format!("\"{nines}TB\""), &much);
    let much = format!("\"{nines}/s\" is too much; say \"unlimited\"");
    check("quotas", "app", &format!("\"{nines}/s\""), &much);
    check("egress", "bytes-per-second", "-1", &format!("-1 {size}"));
    check("egress", "bytes-per-second", "true", &format!("true {size}"));
    check("devices", "ios", "-1", "-1 is out of range; between 0 and 65535 is allowed");
    let long = "x".repeat(50);
    let shown = "x".repeat(40);
    check("levels", "dwell", &format!("\"{long}\""), &format!("\"{shown}…\" {time}"));
    let number = "9".repeat(50);
    check("devices", "ios", &number, "the number is out of range; between 0 and 65535 is allowed");
}

#[test]
fn bad_categories_are_refused() {
    let check = |lines: &str, says: &str| {
        refused(&category(lines), &[&format!("5: category.{says}")]);
    };
    let class = "say \"P0\", \"P1\", \"P2\" or \"P3\"";
    refused(
        "[[category]]\nid = 256\nname = \"Chat\"\nclass = \"P5\"",
        &[
            "2: category.id: 256 is out of range; between 0 and 255 is allowed",
            "3: category.name: \"Chat\" is not a name; say 1 to 64 of the letters a to z, digits \
             and _",
            &format!("4: category.class: \"P5\" is not a class; {class}"),
        ],
    );
    refused(
        "\n[[category]]\ninbox = 1",
        &[
            "2: category.id: missing; every category needs one",
            "2: category.name: missing; every category needs one",
            "2: category.class: missing; every category needs one",
            "3: category.inbox: 1 is neither true nor false",
        ],
    );
    refused(
        &format!("{}\n{}", category(""), category("")),
        &[
            "7: category.id: 9 is taken by the category of line 1",
            "8: category.name: nine is taken by the category of line 1",
        ],
    );
    for name in ["", "é", "a-b", &"x".repeat(65)] {
        let text = format!("[[category]]\nid = 1\nname = {name:?}\nclass = \"P1\"");
        let error = parsed(&text).unwrap_err();
        assert!(error.problems[0].contains(" is not a name; say 1 to 64"), "{error}");
    }
    check(
        "aggregation = \"sum\"",
        "aggregation: \"sum\" is not an aggregation; say \"none\", \"combo\" or \"latest\"",
    );
    check("history = \"tape\"", "history: \"tape\" is not a history; say \"memory\" or \"disk\"");
    for aggregation in ["combo", "latest"] {
        check(
            &format!("aggregation = \"{aggregation}\"\nnever-drop = true"),
            "aggregation: a category that is never dropped is not merged either; say \"none\"",
        );
        check(
            &format!("inbox = true\naggregation = \"{aggregation}\""),
            "inbox: messages that are merged cannot wait in inboxes; say false",
        );
    }
}

#[test]
fn bad_limits_and_histories_are_refused() {
    let check = |lines: &str, says: &str| {
        refused(&category(lines), &[&format!("5: category.{says}")]);
    };
    check(
        "limits = [\"unlimited\", \"unlimited\", \"unlimited\", \"9/s\"]\nnever-drop = true",
        "limits: a category that is never dropped has no limits; say \"unlimited\" or nothing",
    );
    check("limits = \"9/s\"", "limits: \"9/s\" is not a list");
    check("limits = [\"9/s\"]", "limits: 1 values; 4 are needed, one for each of L1 to L4");
    check(
        "limits = [\"9/s\", \"8/s\", \"9/s\", \"9/s\"]",
        "limits: L3 is allowed more than L2; larger rooms may not be",
    );
    check(
        "limits = [\"9/s\", \"9/s\", \"9/s\", \"unlimited\"]",
        "limits: L4 is allowed more than L3; larger rooms may not be",
    );
    check(
        "burst = [0, 0, 0, 12]\nlimits = [\"9/s\", \"9/s\", \"9/s\", \"9/s\"]",
        "burst: L4 is allowed more than L3; larger rooms may not be",
    );
    check("burst = [0, 7, 0, 0]", "burst: L2 has no limit for 7 to go with; say 0");
    let memory = "history in memory is bounded by the gateway; leave this out";
    for field in ["keep-age", "keep-count", "keep-bytes"] {
        check(&format!("{field} = 0\nhistory = \"memory\""), &format!("{field}: {memory}"));
    }
    check("keep-count = -1", "keep-count: -1 is out of range; at least 0 is needed");
    check(
        "keep-age = \"3651d\"",
        "keep-age: \"3651d\" is out of range; between \"0s\" and \"3650d\" is allowed",
    );
    refused(
        &category("limits = [\n\"9/s\",\n\"9\",\n\"8\",\n\"unlimited\",\n]"),
        &[
            "7: category.limits: \"9\" is not a rate; say for example \"20/s\", or \"unlimited\"",
            "8: category.limits: \"8\" is not a rate; say for example \"20/s\", or \"unlimited\"",
        ],
    );
}

#[test]
fn bad_filters_are_refused() {
    let check = |lines: &str, says: &[&str]| {
        refused(&format!("[[filter]]\napp = 1\naction = \"mask\"\n{lines}"), says);
    };
    refused(
        "[[filter]]\n",
        &[
            "1: filter.app: missing; every filter needs one",
            "1: filter.action: missing; every filter needs one",
            "1: filter.words: missing; every filter needs `words`, `file` or both",
        ],
    );
    refused(
        "[[filter]]\napp = -1\naction = \"ban\"\nwords = []",
        &[
            "2: filter.app: -1 is out of range; between 0 and 4294967295 is allowed",
            "3: filter.action: \"ban\" is not an action; say \"mask\", \"reject\" or \"flag\"",
        ],
    );
    check(
        "words = [\"ok\",\n\"\",\n7,\n\"f*ne\"]",
        &[
            "5: filter.words: an empty word would be found everywhere",
            "6: filter.words: 7 is not a text",
            "7: filter.words: \"f*ne\" has a `*`, which is what words are masked with; reject or \
             flag it",
        ],
    );
    check("file = \"\"", &["4: filter.file: \"\" is not a file"]);
    check(
        "file = \"none.txt\"",
        &["4: filter.file: \"none.txt\" cannot be read: entity not found"],
    );
    check("file = \"/abs/latin1.txt\"", &["/abs/latin1.txt:2: this is not UTF-8"]);
    check(
        "file = \"bad.txt\"\nuplinks = 1",
        &[
            "etc/bad.txt:2: \"f*ne\" has a `*`, which is what words are masked with; reject or \
             flag it",
            "etc/bad.txt:4: the word \"xxxxxxxxxxxxxxxx…\" has 200 bytes; at most 128 are allowed",
            "5: filter.uplinks: 1 is neither true nor false",
        ],
    );
    check(
        "file = \"long.txt\"",
        &["4: filter.file: too many words; all lists together may have 100000, and 2097152 bytes \
             of them"],
    );
}

#[test]
fn filters_that_look_nowhere_are_refused() {
    let check = |lines: &str, says: &[&str]| {
        refused(&format!("[[filter]]\napp = 1\naction = \"mask\"\n{lines}"), says);
    };
    check("words = []\ncategories = 4", &["5: filter.categories: 4 is not a list"]);
    check(
        "words = []\ncategories = [4, 99, 1,\n256]",
        &[
            "5: filter.categories: there is no category 99",
            "5: filter.categories: clients may not publish in 1 (gift_large): it is never dropped",
            "6: filter.categories: 256 is out of range; between 0 and 255 is allowed",
        ],
    );
    check(
        "words = []\ncategories = []",
        &["5: filter.categories: no category, and no uplinks either, so nothing would be looked \
             into"],
    );
    // Something else is wrong with category 9; that there is one is not said to be.
    refused(
        &(category("keep-count = -1\n")
            + "[[filter]]\napp = 1\naction = \"mask\"\nwords = []\ncategories = [9, 4]"),
        &[
            "5: category.keep-count: -1 is out of range; at least 0 is needed",
            "10: filter.categories: there is no category 4",
        ],
    );
    let many = "[[filter]]\napp = 1\naction = \"flag\"\nwords = []\n".repeat(1025);
    refused(&many, &["4097: filter: at most 1024 are allowed"]);
}

#[test]
fn all_problems_are_said_by_line_up_to_a_number_of_them() {
    // The levels are read before the inbox, but stand behind it.
    let from = "0,".repeat(450);
    let text = format!("[inbox]\ntries = 0\n[devices]\nios = -1\n[levels]\nfrom = [{from}]");
    let error = parsed(&text).unwrap_err();
    assert_eq!((error.problems.len(), error.more), (100, 352));
    let message = error.to_string();
    let starts: Vec<&str> = message.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(
        starts[..3],
        ["etc/policy.toml:2:", "etc/policy.toml:4:", "etc/policy.toml:6:"],
        "{message}"
    );
    assert!(message.ends_with("\nand 352 more"), "{message}");
}
