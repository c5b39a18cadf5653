//! Tests of the tree codec: what is written, what is tolerated, what is refused, and that both sides agree.

use proptest::prelude::*;

use super::*;

fn node(name: &[u8]) -> Node {
    Node::new(name, NodeKind::File)
}

fn build(nodes: &[Node]) -> Result<Vec<u8>, TreeError> {
    let mut builder = TreeBuilder::new();
    nodes.iter().try_for_each(|node| builder.add(node))?;
    assert_eq!(builder.is_empty(), nodes.is_empty());
    let bytes = builder.len_bytes();
    let tree = builder.finish();
    assert_eq!(tree.len(), bytes);
    Ok(tree)
}

/// A tree of nodes with these names (in quoted form) and nothing else.
fn tree_of(names: &[&str]) -> String {
    let nodes: Vec<_> = names.iter().map(|name| format!(r#"{{"name":"{name}","type":"file"}}"#)).collect();
    format!(r#"{{"nodes":[{}]}}"#, nodes.join(","))
}

#[test]
fn an_empty_tree() {
    assert_eq!(build(&[]).unwrap(), b"{\"nodes\":[]}\n");
    for tree in [
        "{\"nodes\":[]}\n",
        "{\"nodes\":null}",
        "{}",
        " { \"nodes\" : [ ] } ",
        "{\"later\":[{}],\"nodes\":[]}",
    ] {
        assert_eq!(parse_tree(tree.as_bytes()), Ok(Vec::new()), "{tree}");
    }
}

#[test]
fn every_field_in_order() {
    let mut full = node(b"a<");
    full.mode = mode_from_unix(0o104_644);
    full.mtime = Time::new(1, 500_000_000);
    full.atime = Time::new(2, 0);
    full.ctime = Time::new(3, 1);
    (full.uid, full.gid) = (4, 5);
    (full.user, full.group) = ("u".to_owned(), "g".to_owned());
    (full.inode, full.device_id, full.size, full.links, full.device) = (6, 7, 8, 9, u64::MAX);
    full.link_target = b"t\xff".to_vec();
    full.xattrs = vec![Xattr { name: "user.x".to_owned(), value: b"v".to_vec() }];
    full.generic_attributes = Some(serde_json::json!({"z": 1, "a": ["<"]}));
    full.content = Some(vec![Id([0xab; 32]), Id([1; 32])]);
    full.subtree = Some(Id([2; 32]));
    full.error = "e\n".to_owned();
    let tree = build(std::slice::from_ref(&full)).unwrap();
    let expected = format!(
        concat!(
            r#"{{"nodes":[{{"name":"a\u003c","type":"file","mode":8389028,"mtime":"1970-01-01T00:00:01.5Z","#,
            r#""atime":"1970-01-01T00:00:02Z","ctime":"1970-01-01T00:00:03.000000001Z","uid":4,"gid":5,"user":"u","#,
            r#""group":"g","inode":6,"device_id":7,"size":8,"links":9,"linktarget":"t\ufffd","linktarget_raw":"dP8=","#,
            r#""extended_attributes":[{{"name":"user.x","value":"dg=="}}],"#,
            r#""generic_attributes":{{"a":["\u003c"],"z":1}},"device":18446744073709551615,"#,
            r#""content":["{}","{}"],"subtree":"{}","error":"e\n"}}]}}"#,
            "\n"
        ),
        "ab".repeat(32),
        "01".repeat(32),
        "02".repeat(32)
    );
    assert_eq!(String::from_utf8(tree.clone()).unwrap(), expected);
    assert_eq!(parse_tree(&tree).unwrap(), [full]);
}

#[test]
fn what_a_node_lacks_is_left_out() {
    let epoch = "1970-01-01T00:00:00Z";
    let expected = format!(
        "{{\"nodes\":[{{\"name\":\"n\",\"type\":\"file\",\"mtime\":\"{epoch}\",\"atime\":\"{epoch}\",\
         \"ctime\":\"{epoch}\",\"uid\":0,\"gid\":0,\"content\":null}}]}}\n"
    );
    assert_eq!(String::from_utf8(build(&[node(b"n")]).unwrap()).unwrap(), expected);
}

#[test]
fn tolerates_other_writers() {
    let tree = r#" {"future": {"deep": [1, "]"]}, "nodes" : [ {
        "type": "file", "new": {"a": [{}]}, "name": "a", "content": null, "extended_attributes": [
            {"value": null, "name": "user.a"}, {"name": "user.b", "value": "", "flags": 1}],
        "mtime": "1970-01-01T01:00:00+01:00", "mode": null, "user": null, "linktarget_raw": null,
        "subtree": null, "generic_attributes": null, "error": null, "uid": 4294967295 },
        {"linktarget_raw": "/w==", "linktarget": "\ufffd", "name": "b\\xff\\n", "type": "symlink"} ] } "#;
    let nodes = parse_tree(tree.as_bytes()).unwrap();
    let empty = |name: &str| Xattr { name: name.to_owned(), value: Vec::new() };
    let mut first = node(b"a");
    first.xattrs = vec![empty("user.a"), empty("user.b")];
    first.uid = u32::MAX;
    let mut second = node(b"b\xff\n");
    second.kind = NodeKind::Symlink;
    second.link_target = b"\xff".to_vec();
    assert_eq!(nodes, [first, second]);
}

#[test]
fn bad_names_are_told_apart_by_both_sides() {
    let name = |text: &str| text.to_owned();
    let cases: [(&[u8], &str, TreeError); 8] = [
        (b"", "", TreeError::EmptyName),
        (b".", ".", TreeError::DotName { name: name(".") }),
        (b"..", "..", TreeError::DotName { name: name("..") }),
        (b"/", "/", TreeError::SlashInName { name: name("/") }),
        (b"..//x", r"..\\x2f/x", TreeError::SlashInName { name: name("..//x") }),
        (b"a/b", "a/b", TreeError::SlashInName { name: name("a/b") }),
        (b"a\0", r"a\\x00", TreeError::NulInName { name: name("a\0") }),
        (b"a\0", r"a\u0000", TreeError::NulInName { name: name("a\0") }),
    ];
    for (raw, quoted, error) in cases {
        assert_eq!(build(&[node(raw)]), Err(error.clone()), "{quoted}");
        assert_eq!(parse_tree(tree_of(&[quoted]).as_bytes()), Err(error), "{quoted}");
    }
}

#[test]
fn names_ascend_by_their_raw_bytes() {
    let ordered: [&[u8]; 4] = [b"Z", b"a", "é".as_bytes(), b"\xff"];
    assert!(build(&ordered.map(node)).is_ok());
    let duplicate = TreeError::DuplicateName { name: "a".to_owned() };
    assert_eq!(build(&[node(b"a"), node(b"a")]), Err(duplicate.clone()));
    assert_eq!(parse_tree(tree_of(&["a", "\\\\x61"]).as_bytes()), Err(duplicate));
    let unsorted = TreeError::Unsorted { name: "Z".to_owned(), previous: "a".to_owned() };
    assert_eq!(build(&[node(b"a"), node(b"Z")]), Err(unsorted.clone()));
    assert_eq!(parse_tree(tree_of(&["a", "Z"]).as_bytes()), Err(unsorted));
}

#[test]
fn unknown_kinds_are_named() {
    let unknown = |kind: &str| Err(TreeError::UnknownKind { name: "n".to_owned(), kind: kind.to_owned() });
    assert_eq!(parse_tree(br#"{"nodes":[{"type":"door","name":"n"}]}"#), unknown("door"));
    assert_eq!(parse_tree(br#"{"nodes":[{"name":"n"}]}"#), unknown(""));
    assert_eq!(parse_tree(br#"{"nodes":[{"name":"n","type":null}]}"#), unknown(""));
}

#[test]
fn what_is_no_tree_is_refused() {
    let field = |field: &str| format!(r#"{{"nodes":[{{"name":"n","type":"file",{field}}}]}}"#);
    let mut trees: Vec<String> =
        ["", "[]", "null", "{", "{\"nodes\":{}}", "{\"nodes\":[", "{\"nodes\":[]} x"]
            .map(str::to_owned)
            .to_vec();
    trees.extend(
        [
            r#""mode":-1"#,
            r#""mode":4294967296"#,
            r#""size":1.5"#,
            r#""size":"1""#,
            r#""uid":01"#,
            r#""mtime":"now""#,
            r#""mtime":1"#,
            r#""user":1"#,
            r#""user":"\q""#,
            r#""content":{}"#,
            r#""content":["ab"]"#,
            r#""content":[null]"#,
            r#""subtree":"""#,
            r#""linktarget_raw":"*""#,
            r#""linktarget_raw":"/w""#,
            r#""extended_attributes":[1]"#,
            r#""generic_attributes":[]"#,
            r#""name":"\\q""#,
            r#""name":"\\ud800""#,
            r#""other":tru"#,
            r#""other""#,
        ]
        .map(field),
    );
    trees.push(field(&format!(r#""generic_attributes":{{"a":{}1{}}}"#, "[".repeat(9999), "]".repeat(9999))));
    for tree in trees {
        let error = parse_tree(tree.as_bytes()).unwrap_err();
        assert!(matches!(error, TreeError::Syntax { .. }), "{tree}: {error}");
    }
}

#[test]
fn modes_are_those_of_go() {
    for (unix, go) in [
        (0o100_644, 0o644),
        (0o040_755, 1 << 31 | 0o755),
        (0o120_777, 1 << 27 | 0o777),
        (0o060_660, 1 << 26 | 0o660),
        (0o020_620, 1 << 26 | 1 << 21 | 0o620),
        (0o010_600, 1 << 25 | 0o600),
        (0o140_700, 1 << 24 | 0o700),
        (0o104_755, 1 << 23 | 0o755),
        (0o102_755, 1 << 22 | 0o755),
        (0o041_777, 1 << 31 | 1 << 20 | 0o777),
    ] {
        assert_eq!(mode_from_unix(unix), go, "{unix:o}");
        assert_eq!(mode_to_unix(go), unix, "{unix:o}");
    }
    assert_eq!(mode_to_unix(1 << 31 | 1 << 27), 0, "two kinds at once are none");
}

fn any_time() -> impl Strategy<Value = Time> {
    (-62_167_219_200_i64..=253_402_300_799, 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| Time { seconds, nanos })
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..20),
        "[^/\0]{1,12}".prop_map(String::into_bytes)
    ];
    bytes.prop_filter("names are single segments", |name| {
        !name.iter().any(|byte| matches!(byte, 0 | b'/')) && name != b"." && name != b".."
    })
}

fn any_node() -> impl Strategy<Value = Node> {
    let id = || any::<[u8; 32]>().prop_map(Id);
    let xattr = (".{0,8}", any::<Vec<u8>>()).prop_map(|(name, value)| Xattr { name, value });
    let attributes = proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..3);
    (
        (any_name(), 0..7_usize, any::<u32>(), [any_time(), any_time(), any_time()], any::<[u32; 2]>()),
        (".{0,8}", ".{0,8}", ".{0,8}", any::<[u64; 5]>(), any::<Vec<u8>>()),
        (
            proptest::collection::vec(xattr, 0..3),
            proptest::option::of(attributes.prop_map(|fields| serde_json::json!(fields))),
            proptest::option::of(proptest::collection::vec(id(), 0..4)),
            proptest::option::of(id()),
        ),
    )
        .prop_map(|(basic, texts, rest)| {
            let (name, kind, mode, [mtime, atime, ctime], [uid, gid]) = basic;
            let (user, group, error, [inode, device_id, size, links, device], link_target) = texts;
            let (xattrs, generic_attributes, content, subtree) = rest;
            let kind = NodeKind::ALL[kind];
            Node {
                name,
                kind,
                mode,
                mtime,
                atime,
                ctime,
                uid,
                gid,
                user,
                group,
                inode,
                device_id,
                size,
                links,
                link_target,
                xattrs,
                generic_attributes,
                device,
                content,
                subtree,
                error,
            }
        })
}

/// Sorted and without duplicates, as a tree must be.
fn any_nodes() -> impl Strategy<Value = Vec<Node>> {
    proptest::collection::vec(any_node(), 0..6).prop_map(|mut nodes| {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.dedup_by(|a, b| a.name == b.name);
        nodes
    })
}

proptest! {
    #[test]
    fn every_tree_reads_back(nodes in any_nodes()) {
        let tree = build(&nodes).unwrap();
        prop_assert_eq!(parse_tree(&tree).unwrap(), nodes);
    }

    /// An independent reader finds the same JSON, and nothing in it that HTML or JavaScript would misread.
    #[test]
    fn every_tree_is_json(nodes in any_nodes()) {
        let tree = build(&nodes).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&tree).unwrap();
        prop_assert_eq!(value["nodes"].as_array().unwrap().len(), nodes.len());
        prop_assert!(!tree.iter().any(|byte| b"<>&".contains(byte)));
    }

    /// Damaged trees are refused or read as other nodes; what is read can be written again.
    #[test]
    fn damage_never_panics(
        nodes in any_nodes(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..8),
    ) {
        let mut tree = build(&nodes).unwrap();
        for (at, byte, edit) in edits {
            let at = at.index(tree.len());
            match edit {
                0 => tree[at] = byte,
                1 => tree.insert(at, byte),
                _ => tree.truncate(at.max(1)),
            }
        }
        if let Ok(nodes) = parse_tree(&tree) {
            let tree = build(&nodes).unwrap();
            prop_assert_eq!(parse_tree(&tree).unwrap(), nodes);
        }
    }
}
