//! A client's address is the true one or its proxy's, whatever the client sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::collection::vec as many;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use tollgate::{ClientIp, ForwardingHeader, Identity};

const LIST: &str = "x-forwarded-for";
const ELEMENTS: &str = "forwarded";
const SINGLE: &str = "x-real-ip";

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn headers<L: AsRef<[u8]>>(name: &str, lines: &[L]) -> HeaderMap {
    let name: HeaderName = name.parse().expect("a header's name");
    let value = |line: &L| HeaderValue::from_bytes(line.as_ref()).expect("a header's value");
    lines
        .iter()
        .map(|line| (name.clone(), value(line)))
        .collect()
}

/// Reads the header of this name, and tells single IPv6 addresses apart.
fn reading(name: &str, client_ip: ClientIp) -> ClientIp {
    let header = match name {
        LIST => ForwardingHeader::XForwardedFor,
        ELEMENTS => ForwardingHeader::Forwarded,
        other => ForwardingHeader::SingleValue(other.parse().expect("a header's name")),
    };
    client_ip
        .header(header)
        .ipv6_prefix(128)
        .expect("128 is in range")
}

fn behind(network: &str) -> ClientIp {
    let trusted = ClientIp::behind([network.parse().expect("a network")]);
    trusted.expect("a network without further bits")
}

/// The address read from these lines, where 10.0.0.0/8 are the proxies.
fn read<L: AsRef<[u8]>>(name: &str, lines: &[L]) -> IpAddr {
    reading(name, behind("10.0.0.0/8")).address(PROXY, &headers(name, lines))
}

fn vectors(name: &str) -> Vec<Value> {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/vectors/client_ip.json"
    ));
    let vectors: Value = serde_json::from_str(text).expect("the vectors are JSON");
    let cases = vectors[name].as_array().expect("the vectors are there");
    assert!(cases.len() > 10);
    cases.clone()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[test]
fn every_vector_holds() {
    for case in vectors("client_ip") {
        let client_ip = match (case["trusted"].as_array(), case["hops"].as_u64()) {
            (Some(networks), None) => ClientIp::behind(
                networks
                    .iter()
                    .map(|network| text(network).parse().expect("a network")),
            )
            .expect("networks without further bits"),
            (None, Some(hops)) => ClientIp::behind_hops(hops as usize),
            _ => panic!("trusted networks or hops: {case}"),
        };
        let name = text(&case["header"]);
        let lines: Vec<_> = case["lines"]
            .as_array()
            .expect("lines")
            .iter()
            .map(text)
            .collect();
        let peer = ip(text(&case["peer"]));
        let expected = case["expect"].as_str().map_or(peer, ip);
        let address = reading(name, client_ip).address(peer, &headers(name, &lines));
        assert_eq!(address, expected, "{case}");
    }
}

#[test]
fn every_vector_of_prefixes_holds() {
    for case in vectors("ipv6_prefix") {
        let prefix = case["prefix"].as_u64().expect("a number") as u8;
        let expected = ip(text(&case["expect"]));
        let written = text(&case["address"]);

        // As a proxy writes it, perhaps with a zone.
        let behind = ClientIp::behind_hops(1)
            .ipv6_prefix(prefix)
            .expect("in range");
        assert_eq!(
            behind.address(PROXY, &headers(LIST, &[written])),
            expected,
            "{case}"
        );

        // As a peer, which has no zone.
        let Ok(peer) = written.parse() else { continue };
        let alone = ClientIp::peer().ipv6_prefix(prefix).expect("in range");
        assert_eq!(alone.address(peer, &HeaderMap::new()), expected, "{case}");
    }
}

#[test]
fn a_prefix_out_of_range_is_named_with_the_fix() {
    for bits in 0..=255 {
        match ClientIp::peer().ipv6_prefix(bits) {
            Ok(_) => assert!((48..=128).contains(&bits), "{bits}"),
            Err(error) => {
                assert!(!(48..=128).contains(&bits), "{bits}");
                let message = error.to_string();
                assert!(message.contains(&format!("{bits} bits")), "{message}");
                assert!(message.contains("use 48 to 128"), "{message}");
            }
        }
    }
}

#[test]
fn the_default_is_the_peer_by_its_64_bits() {
    let spoofed = headers(LIST, &["6.6.6.6"]);
    let single = ForwardingHeader::SingleValue(HeaderName::from_static(LIST));
    for nobody in [
        ClientIp::default(),
        ClientIp::behind([]).expect("no network"),
        ClientIp::behind_hops(0),
    ] {
        assert_eq!(nobody.address(PROXY, &spoofed), PROXY);
        assert_eq!(
            nobody.address(ip("2001:db8:1:2:3::4"), &spoofed),
            ip("2001:db8:1:2::")
        );
        assert_eq!(
            nobody.header(single.clone()).address(PROXY, &spoofed),
            PROXY
        );
    }
}

#[test]
fn a_network_is_trusted_by_its_bits_and_not_its_spelling() {
    let told = headers(LIST, &["203.0.113.7"]);
    let trusts = |network: &str, peer: &str| behind(network).address(ip(peer), &told) == CLIENT;
    for network in [
        "10.0.0.0/8",
        "10.9.9.9/8",
        "::ffff:10.0.0.0/104",
        "::ffff:10.9.9.9/104",
    ] {
        for peer in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3"] {
            assert!(trusts(network, peer), "{network} {peer}");
        }
        assert!(!trusts(network, "11.1.2.3"), "{network}");
        assert!(!trusts(network, "::10.1.2.3"), "{network}");
    }
    assert!(trusts("fd00::/8", "fd00::1"));

    // All of IPv6 is not all of IPv4, nor is a gateway for IPv4 hosts.
    assert!(trusts("::/0", "2001:db8::1"));
    assert!(!trusts("::/0", "10.1.2.3"));
    assert!(!trusts("::/0", "::ffff:10.1.2.3"));
    assert!(trusts("64:ff9b::/96", "64:ff9b::10.1.2.3"));
    assert!(!trusts("64:ff9b::/96", "10.1.2.3"));
}

#[test]
fn only_the_chosen_header_is_read() {
    let mut all = headers(LIST, &["203.0.113.1"]);
    all.extend(headers(ELEMENTS, &["for=203.0.113.2"]));
    all.extend(headers(SINGLE, &["203.0.113.3"]));
    for (name, expected) in [
        (LIST, "203.0.113.1"),
        (ELEMENTS, "203.0.113.2"),
        (SINGLE, "203.0.113.3"),
    ] {
        let client_ip = reading(name, behind("10.0.0.0/8"));
        assert_eq!(client_ip.address(PROXY, &all), ip(expected));
        let mut others = all.clone();
        others.remove(name);
        assert_eq!(client_ip.address(PROXY, &others), PROXY);
    }
}

#[test]
fn a_list_is_read_strictly() {
    for (entry, expected) in [
        ("\t 203.0.113.7 \t", "203.0.113.7"),
        ("203.0.113.7:0", "203.0.113.7"),
        ("2001:DB8::A", "2001:db8::a"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:65535", "2001:db8::1"),
        ("[::ffff:203.0.113.7]:443", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25en0]:80", "fe80::1"),
    ] {
        assert_eq!(read(LIST, &[entry]), ip(expected), "{entry}");
        let line = format!("6.6.6.6,{entry},10.0.0.7");
        assert_eq!(read(LIST, &[line]), ip(expected), "{entry}");
    }
    let unreadable = "|-|unknown|_x|localhost|203.0.113|203.0.113.7.|203.0.113.256|203.0.113.07|\
        203.0.113.7:|203.0.113.7:x|203.0.113.7:+80|203.0.113.7:65536|203.0.113.7:80:80|\
        203.0.113.7/32|203.0.113.7 203.0.113.8|203.0.113.7;|\"203.0.113.7\"|[203.0.113.7]|\
        203.0.113.7%eth0|0x7f.0.0.1|017700000001|127.1|0.0.0.0:80|::ffff:0.0.0.0|64:ff9b::|[::]|\
        [2001:db8::1|2001:db8::1]|[2001:db8::1]x|[2001:db8::1]443|[]|[]:80|:80|1:2:3:4:5:6:7|\
        1:2:3:4:5:6:7:8:9|12345::|fe80::1%|fe80::1%a b|fe80::1%a%b|for=203.0.113.7";
    for entry in unreadable.split('|') {
        assert_eq!(read(LIST, &[entry]), PROXY, "{entry}");
        let line = format!("6.6.6.6, {entry}, 10.0.0.7");
        assert_eq!(read(LIST, &[line]), PROXY, "{entry}");
        assert_eq!(
            read(LIST, &["6.6.6.6", entry, "10.0.0.7"]),
            PROXY,
            "{entry}"
        );
    }
}

#[test]
fn forwarded_is_read_strictly() {
    let readable = r#"FOR=203.0.113.7|by=_x;fOr=203.0.113.7;proto=https|for="203.0.113.7:80"|
        ;; for=203.0.113.7 ; by=_x; |for=203.0.113.7;host=a.example:8080|for="203.0.113.7:_p-1"|
        for=203.0.113.7;host="a,for=6.6.6.6;x=\"6.6.6.6\\"|for="\203.0.113\.7\:80"|
        for="[::ffff:203.0.113.7]"|for="\[64:ff9b:0000:0000:0000:0000:203.0.113.7\]:65535""#;
    for element in readable.split('|').map(str::trim_start) {
        assert_eq!(read(ELEMENTS, &[element]), CLIENT, "{element}");
        let line = format!("for=6.6.6.6,{element},for=10.0.0.7");
        assert_eq!(read(ELEMENTS, &[line]), CLIENT, "{element}");
    }
    // The longest text that can be read.
    let node = "1111:2222:3333:4444:5555:6666:123.123.123.123%abcdefghijklmno";
    let element = format!(r#"for="[{node}]:65535""#);
    assert_eq!(
        read(ELEMENTS, &[element]),
        ip("1111:2222:3333:4444:5555:6666:7b7b:7b7b")
    );
    let unreadable = r#"|;|for|for=|=203.0.113.7|by=203.0.113.7|xfor=203.0.113.7|for =203.0.113.7|
        for= 203.0.113.7|for=203.0.113.7;for=203.0.113.7|for=203.0.113.7;secure|203.0.113.7|
        for=203.0.113.7:|for=[2001:db8::1]:80|for=2001:db8::1|for="2001:db8::1"|for=203.0.113.7 for=203.0.113.8|
        for=_hidden|for="_hidden"|for="unknown"|for=UNKNOWN|for=0.0.0.0|for="[::]"|for=""|for="|
        for="203.0.113.7|for=203.0.113.7"|for="203.0.113.7"x|for=x"203.0.113.7"|for=""203.0.113.7"|
        for="203.0.113.7\"|for="203.0.113.7\\"|for="203.0.113.7:_"|for="203.0.113.7:_(x)"|
        for="203.0.113.7 "|for="203.0.113.7";x="\"|for=\203.0.113.7|for='203.0.113.7'|
        for=\\"203.0.113.7"|by=a"b\\";for=203.0.113.7|by=a=b;for=203.0.113.7|
        x="a\\"b";for=203.0.113.7|y="z, for=203.0.113.7;x="a\", for=10.0.0.7;x="a\"b""#;
    for element in unreadable.split('|').map(str::trim) {
        assert_eq!(read(ELEMENTS, &[element]), PROXY, "{element}");
        let line = format!("for=6.6.6.6, {element}, for=10.0.0.7");
        assert_eq!(read(ELEMENTS, &[line]), PROXY, "{element}");
        let lines = ["for=6.6.6.6", element, "for=10.0.0.7"];
        assert_eq!(read(ELEMENTS, &lines), PROXY, "{element}");
    }
}

#[test]
fn an_open_quote_hides_what_follows_on_its_line_and_on_no_other() {
    for open in [r#"for="6.6.6.6"#, r#"for=6.6.6.6;x=""#, r#"""#, r#"for="\"#] {
        for real in ["for=203.0.113.7", r#"for="203.0.113.7:80""#] {
            let joined = format!("{open}, {real}");
            assert_eq!(read(ELEMENTS, &[joined.as_str()]), PROXY, "{joined}");
            assert_eq!(read(ELEMENTS, &[joined.as_str(), "for=10.0.0.7"]), PROXY);
            assert_eq!(read(ELEMENTS, &["for=6.6.6.6", joined.as_str()]), PROXY);
            assert_eq!(read(ELEMENTS, &[open, real]), CLIENT, "{joined}");
        }
    }
    // The proxy's own escape makes up for the client's quote: read as the proxy meant it.
    assert_eq!(
        read(ELEMENTS, &[r#"for="6.6.6.6, for=203.0.113.7;x="a\"b""#]),
        CLIENT
    );
}

#[test]
fn a_single_value_is_single() {
    let trusting = reading(SINGLE, behind("10.0.0.0/8"));
    let counting = reading(SINGLE, ClientIp::behind_hops(3));
    for (lines, expected) in [
        (&["203.0.113.7"][..], CLIENT),
        (&[" [64:ff9b::203.0.113.7]:443 "], CLIENT),
        (&["203.0.113.7, 203.0.113.8"], PROXY),
        (&["203.0.113.7,"], PROXY),
        (&["203.0.113.7", "203.0.113.7"], PROXY),
        (&["203.0.113.7", ""], PROXY),
        (&["nope"], PROXY),
        (&[""], PROXY),
        (&[], PROXY),
    ] {
        let headers = headers(SINGLE, lines);
        assert_eq!(trusting.address(PROXY, &headers), expected, "{lines:?}");
        assert_eq!(counting.address(PROXY, &headers), expected, "{lines:?}");
    }
    assert_eq!(read(SINGLE, &["10.0.0.7"]), PROXY, "a proxy is no client");
}

#[test]
fn hops_count_entries_of_all_lines() {
    let list = [
        "203.0.113.4",
        "nope, 203.0.113.7",
        "203.0.113.2,203.0.113.1",
    ];
    let elements = ["for=_x, for=203.0.113.7", "for=203.0.113.2,for=203.0.113.1"];
    for (hops, expected) in [
        (0, PROXY),
        (1, ip("203.0.113.1")),
        (2, ip("203.0.113.2")),
        (3, CLIENT),
        (4, PROXY),
        (5, PROXY),
        (usize::MAX, PROXY),
    ] {
        let address = |name| reading(name, ClientIp::behind_hops(hops));
        assert_eq!(
            address(LIST).address(PROXY, &headers(LIST, &list)),
            expected
        );
        assert_eq!(
            address(ELEMENTS).address(PROXY, &headers(ELEMENTS, &elements)),
            expected
        );
    }
}

#[test]
fn bytes_that_are_no_text_are_unreadable_where_they_are_reached() {
    for (line, expected) in [
        (&b"203.0.113.7\xff"[..], PROXY),
        (b"6.6.6.6,\xff\xfe,10.0.0.7", PROXY),
        (b"\xff\xfe, 203.0.113.7, 10.0.0.7", CLIENT),
    ] {
        assert_eq!(read(LIST, &[line]), expected);
    }
    for (line, expected) in [
        (&b"for=203.0.113.7\xff"[..], PROXY),
        (b"for=\"203.0.113.7\xff\"", PROXY),
        (b"for=203.0.113.7;host=\xff", PROXY),
        (b"\xff\xfe, for=203.0.113.7", CLIENT),
    ] {
        assert_eq!(read(ELEMENTS, &[line]), expected);
    }
}

/// Were any of these read in quadratic time, this would run for minutes.
#[test]
fn a_header_of_64_kib_is_read_in_one_go() {
    let units = "x|,| |\t,|;|=|\"|\\|\\\"|\\\\\"|=\"|for=|x=\"\";|[|:|%|1|1.|::|10.0.0.1,|\
        for=10.0.0.1,|for=\"10.0.0.1\", ";
    for unit in units.split('|') {
        let garbage = unit.repeat(64 * 1024 / unit.len());
        let garbage = garbage.as_str();
        assert_eq!(read(LIST, &[garbage]), PROXY, "{unit}");
        assert_eq!(read(LIST, &[garbage, "203.0.113.7"]), CLIENT, "{unit}");
        assert_eq!(
            read(LIST, &[format!("{garbage}, 203.0.113.7")]),
            CLIENT,
            "{unit}"
        );

        assert_eq!(read(ELEMENTS, &[garbage]), PROXY, "{unit}");
        assert_eq!(
            read(ELEMENTS, &[garbage, "for=203.0.113.7"]),
            CLIENT,
            "{unit}"
        );
        // These open a quote and leave it so: the second is there an odd number of times.
        let open = unit == r#"\""# || unit == r#"\\""#;
        let expected = if open { PROXY } else { CLIENT };
        let line = format!("{garbage}, for=203.0.113.7");
        assert_eq!(read(ELEMENTS, &[line]), expected, "{unit}");
    }
}

/// What a client may send: spoofed entries among anything that a header can hold.
fn attack() -> impl Strategy<Value = Vec<u8>> {
    let meaning = select(b"\"\"\"\\\\,;= \tfor[]:.%016".to_vec());
    let any = any::<u8>().prop_filter("none of a header", |&byte| {
        byte == b'\t' || (byte >= b' ' && byte != 0x7f)
    });
    let noise = many(prop_oneof![4 => meaning, 1 => any], 0..12);
    let spoof = select(vec![
        r#"6.6.6.6"#,
        r#"6.6.6.6, "#,
        r#", for=6.6.6.6"#,
        r#"for="6.6.6.6"#,
        r#"for=6.6.6.6;x=""#,
        r#"x="\"\\", "#,
        r#"", for=6.6.6.6;x=\""#,
    ]);
    let spoof = spoof.prop_map(|text| text.as_bytes().to_vec());
    many(prop_oneof![noise, spoof], 0..6).prop_map(|pieces| pieces.concat())
}

fn attack_headers(name: &'static str) -> impl Strategy<Value = HeaderMap> {
    many(attack(), 0..4).prop_map(move |lines| headers(name, &lines))
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped().into()),
        (any::<u128>(), select(vec![0, 64, 96, 112]))
            .prop_map(|(bits, shift)| Ipv6Addr::from_bits(bits >> shift).into()),
    ]
}

/// An address as it counts: an IPv4 one where there is one inside.
fn plain(address: IpAddr) -> IpAddr {
    reading(LIST, ClientIp::peer()).address(address, &HeaderMap::new())
}

/// The address in brackets where it needs them, then a port.
fn with_port(address: IpAddr) -> impl Strategy<Value = String> {
    any::<u16>().prop_map(move |port| std::net::SocketAddr::new(address, port).to_string())
}

fn entry(address: IpAddr) -> BoxedStrategy<String> {
    prop_oneof![Just(address.to_string()), with_port(address)].boxed()
}

/// A quoted string, with those quoted-pairs that it needs and some that it does not.
fn quoted(text: String) -> impl Strategy<Value = String> {
    many(any::<bool>(), text.len()).prop_map(move |escaped| {
        let pairs = text.chars().zip(escaped);
        let inside = pairs.map(|(char, escaped)| {
            if escaped || matches!(char, '"' | '\\') {
                format!("\\{char}")
            } else {
                char.to_string()
            }
        });
        format!("\"{}\"", inside.collect::<String>())
    })
}

/// An element as a proxy writes it, with other parameters around it that the client may choose.
fn element(address: IpAddr) -> BoxedStrategy<String> {
    let node = with_port(address).prop_flat_map(quoted);
    let node = match address {
        IpAddr::V4(address) => prop_oneof![Just(address.to_string()), node].boxed(),
        IpAddr::V6(_) => node.boxed(),
    };
    let host = r#"[a-z",;=\\ ]{0,6}(, for=6\.6\.6\.6|;x="6\.6\.6\.6)?["\\,]{0,3}"#;
    let host = host
        .prop_flat_map(quoted)
        .prop_map(|host| format!("host={host}"));
    let others = many(prop_oneof![Just("proto=https".to_owned()), host], 0..3).boxed();
    (others.clone(), node, others)
        .prop_map(|(before, node, after)| {
            [before, vec![format!("for={node}")], after]
                .concat()
                .join(";")
        })
        .boxed()
}

/// What proxies add: the client, then those of the proxies that are not the peer.
fn chain(
    write: fn(IpAddr) -> BoxedStrategy<String>,
) -> impl Strategy<Value = (IpAddr, Vec<String>)> {
    let client = address().prop_filter("not a client's", |&address| {
        let address = plain(address);
        !address.is_unspecified() && !matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10)
    });
    let proxy = any::<u8>().prop_map(|last| Ipv4Addr::new(10, 0, 0, last).into());
    (client, many(proxy, 0..3)).prop_flat_map(move |(client, proxies)| {
        let chain = [vec![client], proxies].concat();
        (
            Just(client),
            chain.into_iter().map(write).collect::<Vec<_>>(),
        )
    })
}

fn readers(name: &str, entries: usize) -> [ClientIp; 2] {
    [behind("10.0.0.0/8"), ClientIp::behind_hops(entries)].map(|reader| reading(name, reader))
}

const COMMA: &str = "[ \t]{0,2},[ \t]{0,2}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn nothing_panics(
        list in attack_headers(LIST),
        elements in attack_headers(ELEMENTS),
        single in attack_headers(SINGLE),
        peer in address(),
        hops in 0..5_usize,
    ) {
        for (name, headers) in [(LIST, &list), (ELEMENTS, &elements), (SINGLE, &single)] {
            for client_ip in readers(name, hops) {
                for peer in [peer, PROXY] {
                    let address = client_ip.address(peer, headers);
                    prop_assert_eq!(plain(address), address, "canonical");
                }
            }
        }
    }

    #[test]
    fn nothing_to_the_left_changes_a_list(
        attacks in many(attack(), 0..3),
        (client, entries) in chain(entry),
        comma in COMMA,
    ) {
        let lines = [attacks, vec![entries.join(&comma).into_bytes()]].concat();
        for client_ip in readers(LIST, entries.len()) {
            let address = client_ip.address(PROXY, &headers(LIST, &lines));
            prop_assert_eq!(address, plain(client), "on earlier lines");

            let line = lines.join(comma.as_bytes());
            let address = client_ip.address(PROXY, &headers(LIST, &[line]));
            prop_assert_eq!(address, plain(client), "on the same line");
        }
    }

    #[test]
    fn nothing_to_the_left_changes_forwarded(
        attacks in many(attack(), 0..3),
        (client, elements) in chain(element),
        comma in COMMA,
    ) {
        let own = elements.join(&comma);
        let quotes = attacks.concat().contains(&b'"');
        let lines = [attacks, vec![own.clone().into_bytes()]].concat();
        for client_ip in readers(ELEMENTS, elements.len()) {
            let address = client_ip.address(PROXY, &headers(ELEMENTS, &lines));
            prop_assert_eq!(address, plain(client), "on earlier lines");

            let line = [own.as_str(); 3].join(&comma);
            let address = client_ip.address(PROXY, &headers(ELEMENTS, &[line]));
            prop_assert_eq!(address, plain(client), "after well-formed elements, quotes and all");

            // Here a quote can make the line unreadable, but nothing can change what it says.
            let line = lines.join(comma.as_bytes());
            let address = client_ip.address(PROXY, &headers(ELEMENTS, &[line]));
            let hidden = quotes && address == PROXY;
            prop_assert!(hidden || address == plain(client), "on the same line: {}", address);
        }
    }
}

/// A 6to4 host has the 65,536 networks of `2002:V4::/48` (RFC 3056).
#[test]
fn sixto4_counts_as_its_ipv4_host_and_is_never_trusted() {
    let told = headers(LIST, &["203.0.113.7"]);
    let trusting = behind("10.0.0.0/8");
    for spelled in ["2002:a00:5::1", "2002:a00:5:1::1", "2002:a00:5:ffff::2"] {
        assert_eq!(Identity::ip(ip(spelled)), Identity::ip(ip("10.0.0.5")));
        assert_eq!(trusting.address(ip(spelled), &told), ip("10.0.0.5"));
    }
    assert_eq!(read(LIST, &["6.6.6.6, 2002:a00:9::1"]), ip("10.0.0.9"));
}

#[test]
fn named_nat64_prefixes_count_as_ipv4_clients() {
    // RFC 6052, section 2.4.
    for (prefix, address) in [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ("::ffff:0:0:0/96", "::ffff:0:192.0.2.33"),
    ] {
        let peer = ClientIp::peer().ipv6_prefix(64).unwrap();
        let one = peer.clone().address(ip(address), &HeaderMap::new());
        assert!(one.is_ipv6(), "{prefix} is not named");
        let named = peer.nat64_prefixes([prefix.parse().unwrap()]).unwrap();
        let counted = named.address(ip(address), &HeaderMap::new());
        assert_eq!(counted, ip("192.0.2.33"), "{prefix}");
    }
    for odd in [
        "10.0.0.0/8",
        "2001:db8::/33",
        "2001:db8::1/64",
        "2001:db8::/128",
    ] {
        let refused = ClientIp::peer().nat64_prefixes([odd.parse().unwrap()]);
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(odd) && error.contains("/48"), "{error}");
    }
}

#[test]
fn ipv4_network_with_an_ipv6_address_is_refused() {
    for (network, fix) in [
        ("::ffff:10.0.0.0/8", "write `10.0.0.0/8`"),
        ("64:ff9b::10.0.0.0/8", "write `10.0.0.0/8`"),
        ("::ffff:10.1.2.3/8", "write `10.0.0.0/8`"),
        ("::ffff:10.1.2.3/95", "write `10.1.2.3/32`"),
    ] {
        let refused = ClientIp::behind([network.parse().unwrap()]);
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("IPv6") && error.contains(fix), "{error}");
    }
    for network in [
        "10.1.2.3/8",
        "::ffff:10.0.0.0/104",
        "2001:db8::1/64",
        "::/0",
    ] {
        behind(network);
    }
}

/// RFC 7239, section 6.2. A node with a port should be quoted, which some proxies forget.
#[test]
fn forwarded_node_may_have_any_port_quoted_or_not() {
    for port in ["", ":443", ":_port", ":_p.o-r_t"] {
        for quote in ["", "\""] {
            let line = format!("for={quote}198.51.100.4{port}{quote};proto=https");
            assert_eq!(read("forwarded", &[&line]), ip("198.51.100.4"), "{line}");
        }
    }
    for line in [
        "for=198.51.100.4:_",
        "for=198.51.100.4:65536",
        "for=_hidden:_port",
    ] {
        assert_eq!(read("forwarded", &[line]), PROXY, "{line}");
    }
}
