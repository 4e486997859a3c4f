//! Texts before and after, to the letter.

use super::{AddRoute, DeleteRoute, Edit, EditError, Enable, SetRoute, edit, parse_destination};

fn add(destination: &str, next_hop: &str, weight: Option<u8>, publish: bool) -> Edit {
    let destination = destination.parse().expect(destination);
    Edit::AddRoute(AddRoute { destination, next_hop: next_hop.into(), weight, publish })
}

fn delete(destination: &str, next_hop: Option<&str>) -> Edit {
    let destination = destination.parse().expect(destination);
    Edit::DeleteRoute(DeleteRoute { destination, next_hop: next_hop.map(str::to_owned) })
}

fn set(destination: &str, next_hop: Option<&str>, weight: Option<u8>, publish: Option<bool>) -> Edit {
    let destination = destination.parse().expect(destination);
    Edit::SetRoute(SetRoute { destination, next_hop: next_hop.map(str::to_owned), weight, publish })
}

fn enable(connection: &str, enabled: bool) -> Edit {
    Edit::Enable(Enable { connection: connection.into(), enabled })
}

/// Each case also with Windows line ends, with a byte order mark, and without the last line end.
fn check(cases: &[(&str, Edit, &str)]) {
    for (before, change, after) in cases {
        let result = |text: &str| edit(text, change).unwrap_or_else(|error| panic!("{change:?}: {error}\n{text}"));
        assert_eq!(result(before), *after, "{change:?}");
        let windows = |text: &str| text.replace('\n', "\r\n");
        assert_eq!(result(&windows(before)), windows(after), "{change:?}");
        let marked = |text: &str| format!("\u{feff}{text}");
        assert_eq!(result(&marked(before)), marked(after), "{change:?}");
        if let (Some(before), Some(after)) = (before.strip_suffix('\n'), after.strip_suffix('\n')) {
            assert_eq!(result(before), after, "{change:?}");
            assert_eq!(result(&windows(before)), windows(after), "{change:?}");
        }
    }
}

const HEAD: &str = "\
# The hub.
[connection.a] # first
interface = \"tun-a\"

[connection.b]
interface = \"tun-b\"
";

const ONE: &str = "\
[connection.a]
x = 1

# About this route.
# More about it.
[[route]] # here
destination = \"10.1.0.0/16\" # the site
next_hop = \"a\"

# The end.
";

const TWO: &str = "\
[connection.a]
[connection.b]
[[route]]
destination = '10.1.0.0/16'
next_hop    = 'a'
publish     = true
[[route]]
destination = '10.1.0.0/16'
next_hop    = 'b'
weight      = 0x0A # standby
[vpc]
name = \"\"\"
# no comment
\"\"\"
";

#[test]
fn a_route_comes_after_the_last_one_and_looks_like_it() {
    check(&[
        (
            HEAD,
            add("10.1.0.0/16", "a", None, false),
            &format!("{HEAD}\n[[route]]\ndestination = \"10.1.0.0/16\"\nnext_hop = \"a\"\n"),
        ),
        (
            ONE,
            add("fd00::/16", "a", Some(0), true),
            &ONE.replace(
                "next_hop = \"a\"\n",
                "next_hop = \"a\"\n\n[[route]]\ndestination = \"fd00::/16\"\nnext_hop = \"a\"\nweight = 0\npublish = true\n",
            ),
        ),
        (
            TWO,
            add("10.2.0.0/16", "b", Some(7), true),
            &TWO.replace(
                "# standby\n",
                "# standby\n[[route]]\ndestination = \"10.2.0.0/16\"\nnext_hop    = \"b\"\nweight      = 7\npublish     = true\n",
            ),
        ),
        // What follows the last line directly is about what follows; what a blank line ends, is about the route.
        (
            "[[route]]\ndestination=\"10.1.0.0/16\"\n  next_hop=\"a\"\n# weight=3\n\n# b\n[connection.a]\n",
            add("10.2.0.0/16", "a", Some(1), false),
            "[[route]]\ndestination=\"10.1.0.0/16\"\n  next_hop=\"a\"\n# weight=3\n\n[[route]]\ndestination=\"10.2.0.0/16\"\n  next_hop=\"a\"\n  weight=1\n\n# b\n[connection.a]\n",
        ),
        (
            "[[route]]\ndestination = \"10.1.0.0/16\"\nnext_hop = \"a\"\n# b\n[connection.a]\n",
            add("10.2.0.0/16", "a", None, false),
            "[[route]]\ndestination = \"10.1.0.0/16\"\nnext_hop = \"a\"\n\n[[route]]\ndestination = \"10.2.0.0/16\"\nnext_hop = \"a\"\n# b\n[connection.a]\n",
        ),
    ]);
}

#[test]
fn a_route_goes_with_its_comments_and_nothing_else() {
    check(&[
        (ONE, delete("10.1.0.0/16", None), "[connection.a]\nx = 1\n\n# The end.\n"),
        (
            TWO,
            delete("10.1.0.0/16", Some("a")),
            "[connection.a]\n[connection.b]\n[[route]]\ndestination = '10.1.0.0/16'\nnext_hop    = 'b'\nweight      = 0x0A # standby\n[vpc]\nname = \"\"\"\n# no comment\n\"\"\"\n",
        ),
        // A comment that stands by itself stays.
        (
            "# all routes\n\n[[route]]\n# in\ndestination = \"10.1.0.0/16\"\n\nnext_hop = \"a\"\n# below\n\n# other\n[[route]]\ndestination = \"10.2.0.0/16\"\nnext_hop = \"a\"\n",
            delete("10.1.0.0/16", Some("a")),
            "# all routes\n\n# other\n[[route]]\ndestination = \"10.2.0.0/16\"\nnext_hop = \"a\"\n",
        ),
        // The last one.
        (
            "[vpc]\nname = \"\"\"\n# no comment\"\"\"\n[[route]]\ndestination = \"10.1.0.0/16\"\nnext_hop = \"a\"\n",
            delete("10.1.0.0/16", None),
            "[vpc]\nname = \"\"\"\n# no comment\"\"\"\n",
        ),
        (
            "[[route]]\ndestination = \"10.1.0.0/16\"\nnext_hop = \"a\"\n\n\n[vpc]\nx = 1\n",
            delete("10.1.0.0/16", None),
            "[vpc]\nx = 1\n",
        ),
    ]);
}

#[test]
fn a_routes_value_is_changed_in_its_place() {
    check(&[
        (
            ONE,
            set("10.1.0.0/16", None, Some(0), Some(true)),
            &ONE.replace("next_hop = \"a\"\n", "next_hop = \"a\"\nweight = 0\npublish = true\n"),
        ),
        (TWO, set("10.1.0.0/16", Some("b"), Some(100), None), &TWO.replace("0x0A", "100")),
        (
            TWO,
            set("10.1.0.0/16", Some("a"), Some(50), Some(false)),
            &TWO.replace("publish     = true\n", "publish     = false\nweight      = 50\n"),
        ),
        // As it is: also where it is written otherwise, or not at all.
        (TWO, set("10.1.0.0/16", Some("b"), Some(10), Some(false)), TWO),
        (ONE, set("10.1.0.0/16", None, Some(100), Some(false)), ONE),
        (ONE, add("10.1.0.0/16", "a", None, false), ONE),
    ]);
}

#[test]
fn routes_in_a_list_are_changed_there() {
    let line = "route = [{ destination = \"10.1.0.0/16\", next_hop = \"a\" }, {destination=\"10.2.0.0/16\", next_hop=\"a\"}] # all\nconnection.a.x = 1\n";
    let lines = "\
connection.a.x = 1
route = [
  # one, with a comma
  { destination = \"10.1.0.0/16\", next_hop = \"a\" }, # 1, first
  # two
  { destination = \"10.2.0.0/16\", next_hop = \"a\", weight = 3, }  # 2
  # end
]
";
    check(&[
        (
            line,
            add("10.3.0.0/16", "a", Some(5), true),
            &line.replace("}] #", "}, {destination=\"10.3.0.0/16\", next_hop=\"a\", weight=5, publish=true}] #"),
        ),
        (
            line,
            delete("10.1.0.0/16", None),
            "route = [{destination=\"10.2.0.0/16\", next_hop=\"a\"}] # all\nconnection.a.x = 1\n",
        ),
        (
            line,
            delete("10.2.0.0/16", None),
            "route = [{ destination = \"10.1.0.0/16\", next_hop = \"a\" }] # all\nconnection.a.x = 1\n",
        ),
        (line, set("10.1.0.0/16", None, Some(5), None), &line.replace("\"a\" }", "\"a\", weight=5 }")),
        (
            lines,
            add("10.3.0.0/16", "a", None, false),
            &lines.replace("3, }  # 2\n", "3, },  # 2\n  { destination = \"10.3.0.0/16\", next_hop = \"a\" }\n"),
        ),
        (
            lines,
            delete("10.1.0.0/16", None),
            &lines.replace(
                "  # one, with a comma\n  { destination = \"10.1.0.0/16\", next_hop = \"a\" }, # 1, first\n",
                "",
            ),
        ),
        (
            lines,
            delete("10.2.0.0/16", None),
            "connection.a.x = 1\nroute = [\n  # one, with a comma\n  { destination = \"10.1.0.0/16\", next_hop = \"a\" } # 1, first\n  # end\n]\n",
        ),
        (
            lines,
            set("10.2.0.0/16", None, Some(4), Some(true)),
            &lines.replace("weight = 3,", "weight = 4, publish = true,"),
        ),
        (
            "connection.a.x = 1\nroute = [ ]\n",
            add("10.3.0.0/16", "a", None, false),
            "connection.a.x = 1\nroute = [{ destination = \"10.3.0.0/16\", next_hop = \"a\" }]\n",
        ),
        (
            "connection.a.x = 1\nroute = [ # none\n]\n",
            add("10.3.0.0/16", "a", None, false),
            "connection.a.x = 1\nroute = [ # none\n    { destination = \"10.3.0.0/16\", next_hop = \"a\" },\n]\n",
        ),
        (
            "connection.a.x = 1\nroute = [\n  {destination=\"10.1.0.0/16\",next_hop=\"a\"},\n]\n",
            add("10.3.0.0/16", "a", None, false),
            "connection.a.x = 1\nroute = [\n  {destination=\"10.1.0.0/16\",next_hop=\"a\"},\n  {destination=\"10.3.0.0/16\", next_hop=\"a\"},\n]\n",
        ),
    ]);
}

#[test]
fn a_connection_is_taken_down_by_a_line_and_up_without() {
    let cases = [
        (HEAD.to_owned(), "a", HEAD.replace("\"tun-a\"\n", "\"tun-a\"\nenabled = false\n")),
        (
            "[connection.a]\n  interface   = \"x\" # i\n  remotes     = [\n  1, # one\n  ] # r\n\n[connection.a.health_check]\nx = 1\n".to_owned(),
            "a",
            "[connection.a]\n  interface   = \"x\" # i\n  remotes     = [\n  1, # one\n  ] # r\n  enabled     = false\n\n[connection.a.health_check]\nx = 1\n".to_owned(),
        ),
        (
            "[connection]\n\"a.b\".interface = \"x\"\nc.interface = \"y\"\n".to_owned(),
            "a.b",
            "[connection]\n\"a.b\".interface = \"x\"\n\"a.b\".enabled = false\nc.interface = \"y\"\n".to_owned(),
        ),
    ];
    for (up, name, down) in &cases {
        check(&[(up, enable(name, false), down), (down, enable(name, true), up)]);
        check(&[(up, enable(name, true), up), (down, enable(name, false), down)]);
    }
    // What a comment is about is changed, not removed; in a table of one line there is no line to remove.
    check(&[
        (
            "[connection.a]\nenabled = true # on\nx = 1\n",
            enable("a", false),
            "[connection.a]\nenabled = false # on\nx = 1\n",
        ),
        (
            "[connection.a]\n# switch\nenabled = false\nx = 1\n",
            enable("a", true),
            "[connection.a]\n# switch\nenabled = true\nx = 1\n",
        ),
        (
            "[connection]\na = { x = 1, health_check = { y = 1 } }\n",
            enable("a", false),
            "[connection]\na = { x = 1, enabled = false, health_check = { y = 1 } }\n",
        ),
        (
            "connection = { a = { enabled = false, x = 1 } }\n",
            enable("a", true),
            "connection = { a = { enabled = true, x = 1 } }\n",
        ),
        (
            "connection = { a.x = 1, b.x = 2 }\n",
            enable("a", false),
            "connection = { a.x = 1, a.enabled = false, b.x = 2 }\n",
        ),
    ]);
}

#[test]
fn what_does_not_fit_is_said_with_the_way_out() {
    let cases = [
        (add("10.9.0.0/16", "c", None, false), "there is no connection \"c\": there are a, b"),
        (enable("bb", false), "there is no connection \"bb\": there are a, b"),
        (
            add("10.1.0.0/16", "b", None, false),
            "there is a route to 10.1.0.0/16 by b already, with weight 10, not published: change it with `vpnhub route \
             set 10.1.0.0/16 --next-hop b`",
        ),
        (
            delete("10.9.0.0/16", None),
            "there is no route to 10.9.0.0/16: `vpnhub route list` shows those that there are",
        ),
        (delete("10.1.0.0/16", None), "10.1.0.0/16 has several routes: name one with --next-hop, of a, b"),
        (set("10.1.0.0/16", Some("c"), Some(1), None), "there is no route to 10.1.0.0/16 by \"c\": it has a, b"),
        (set("10.1.0.0/16", Some("a"), None, None), "nothing is asked for: give a new weight, or whether to publish"),
    ];
    for (change, expected) in cases {
        assert_eq!(edit(TWO, &change).expect_err("an error").to_string(), expected);
    }
    assert!(matches!(edit("[", &enable("a", true)), Err(EditError::NotToml(_))));
}

#[test]
fn bodies_are_taken_by_the_rules_of_the_file() {
    let parse = |text: &str| serde_json::from_str::<AddRoute>(text).map_err(|error| error.to_string());
    let full = r#"{"destination":"10.0.0.0/8","next_hop":"a","weight":100,"publish":true}"#;
    assert_eq!(
        parse(full),
        Ok(AddRoute {
            destination: parse_destination("10.0.0.0/8").expect("a prefix"),
            next_hop: "a".into(),
            weight: Some(100),
            publish: true
        })
    );
    for (text, expected) in [
        (full.replace("0.0.0/8", "0.0.1/8"), "host bits"),
        (full.replace("10.0.0.0/8", "224.0.0.0/4"), "never forwarded"),
        (full.replace("100", "101"), "from 0 to 100, is 101"),
        (full.replace("weight", "wait"), "unknown field `wait`"),
        (full.replace("\"next_hop\":\"a\",", ""), "missing field `next_hop`"),
    ] {
        let error = parse(&text).expect_err(&text);
        assert!(error.contains(expected), "{text}: {error}");
    }
}
