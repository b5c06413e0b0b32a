//! The address of a client is read as its own or as that of its proxy, whatever headers it sends:
//! it cannot make one up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::collection::vec as many;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use tollgate::{ClientIp, ForwardingHeader, Identity};

/// The header of a plain list of addresses.
const LIST: &str = "x-forwarded-for";
/// The header of RFC 7239, a list of elements with parameters.
const ELEMENTS: &str = "forwarded";
/// A header of one address.
const SINGLE: &str = "x-real-ip";

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Returns a header map with one header in several lines.
fn headers<L: AsRef<[u8]>>(name: &str, lines: &[L]) -> HeaderMap {
    let name: HeaderName = name.parse().expect("a header's name");
    let value = |line: &L| HeaderValue::from_bytes(line.as_ref()).expect("a header's value");
    lines
        .iter()
        .map(|line| (name.clone(), value(line)))
        .collect()
}

/// Configures the header to read, and IPv6 addresses to be kept in full.
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

/// Returns a reader that trusts the proxies of this network.
fn behind(network: &str) -> ClientIp {
    let trusted = ClientIp::behind([network.parse().expect("a network")]);
    trusted.expect("a network without further bits")
}

/// Returns the client address read from these lines, with trusted proxies in 10.0.0.0/8.
fn read<L: AsRef<[u8]>>(name: &str, lines: &[L]) -> IpAddr {
    reading(name, behind("10.0.0.0/8")).address(PROXY, &headers(name, lines))
}

/// Returns the test vectors of this name.
fn vectors(name: &str) -> Vec<Value> {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/vectors/client_ip.json"
    ));
    let vectors: Value = serde_json::from_str(text).expect("the vectors are JSON");
    let cases = vectors[name].as_array().expect("an array of vectors");
    assert!(cases.len() > 10);
    cases.clone()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

#[test]
fn every_client_ip_vector_holds() {
    for case in vectors("client_ip") {
        let client_ip = match (case["trusted"].as_array(), case["hops"].as_u64()) {
            (Some(networks), None) => ClientIp::behind(
                networks
                    .iter()
                    .map(|network| text(network).parse().expect("a network")),
            )
            .expect("networks without further bits"),
            (None, Some(hops)) => ClientIp::behind_hops(hops as usize),
            _ => panic!("neither trusted networks nor hops: {case}"),
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
fn every_ipv6_prefix_vector_holds() {
    for case in vectors("ipv6_prefix") {
        let prefix = case["prefix"].as_u64().expect("a number") as u8;
        let expected = ip(text(&case["expect"]));
        let written = text(&case["address"]);

        // The address in a header, where it may have a zone.
        let behind = ClientIp::behind_hops(1)
            .ipv6_prefix(prefix)
            .expect("in range");
        assert_eq!(
            behind.address(PROXY, &headers(LIST, &[written])),
            expected,
            "{case}"
        );

        // The address of the peer, which has no zone.
        let Ok(peer) = written.parse() else { continue };
        let direct = ClientIp::peer().ipv6_prefix(prefix).expect("in range");
        assert_eq!(direct.address(peer, &HeaderMap::new()), expected, "{case}");
    }
}

#[test]
fn prefix_out_of_range_is_refused_with_the_fix() {
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
fn default_is_the_peer_with_64_bits() {
    let spoofed = headers(LIST, &["6.6.6.6"]);
    let single = ForwardingHeader::SingleValue(HeaderName::from_static(LIST));
    for trusting_none in [
        ClientIp::default(),
        ClientIp::behind([]).expect("no network"),
        ClientIp::behind_hops(0),
    ] {
        assert_eq!(trusting_none.address(PROXY, &spoofed), PROXY);
        assert_eq!(
            trusting_none.address(ip("2001:db8:1:2:3::4"), &spoofed),
            ip("2001:db8:1:2::")
        );
        assert_eq!(
            trusting_none
                .header(single.clone())
                .address(PROXY, &spoofed),
            PROXY
        );
    }
}

#[test]
fn network_is_trusted_in_every_notation() {
    let forwarded = headers(LIST, &["203.0.113.7"]);
    let trusts =
        |network: &str, peer: &str| behind(network).address(ip(peer), &forwarded) == CLIENT;
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

    // A network of IPv6 addresses, or a NAT64 prefix, contains no IPv4 address.
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
fn list_is_parsed_strictly() {
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
fn forwarded_is_parsed_strictly() {
    let readable = r#"FOR=203.0.113.7|by=_x;fOr=203.0.113.7;proto=https|for="203.0.113.7:80"|
        ;; for=203.0.113.7 ; by=_x; |for=203.0.113.7;host=a.example:8080|for="203.0.113.7:_p-1"|
        for=203.0.113.7;host="a,for=6.6.6.6;x=\"6.6.6.6\\"|for="\203.0.113\.7\:80"|
        for="[::ffff:203.0.113.7]"|for="\[64:ff9b:0000:0000:0000:0000:203.0.113.7\]:65535""#;
    for element in readable.split('|').map(str::trim_start) {
        assert_eq!(read(ELEMENTS, &[element]), CLIENT, "{element}");
        let line = format!("for=6.6.6.6,{element},for=10.0.0.7");
        assert_eq!(read(ELEMENTS, &[line]), CLIENT, "{element}");
    }
    // The longest valid node.
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
fn unclosed_quote_hides_only_its_own_line() {
    for open in [r#"for="6.6.6.6"#, r#"for=6.6.6.6;x=""#, r#"""#, r#"for="\"#] {
        for real in ["for=203.0.113.7", r#"for="203.0.113.7:80""#] {
            let joined = format!("{open}, {real}");
            assert_eq!(read(ELEMENTS, &[joined.as_str()]), PROXY, "{joined}");
            assert_eq!(read(ELEMENTS, &[joined.as_str(), "for=10.0.0.7"]), PROXY);
            assert_eq!(read(ELEMENTS, &["for=6.6.6.6", joined.as_str()]), PROXY);
            assert_eq!(read(ELEMENTS, &[open, real]), CLIENT, "{joined}");
        }
    }
    // A quoted-pair of the proxy balances the quote of the client, so the line is read as the proxy
    // wrote it.
    assert_eq!(
        read(ELEMENTS, &[r#"for="6.6.6.6, for=203.0.113.7;x="a\"b""#]),
        CLIENT
    );
}

#[test]
fn single_value_header_has_one_value() {
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
    assert_eq!(
        read(SINGLE, &["10.0.0.7"]),
        PROXY,
        "a proxy is not a client"
    );
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
fn non_ascii_bytes_are_unreadable_where_reached() {
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

/// With quadratic parsing this test would run for minutes.
#[test]
fn header_of_64_kib_is_parsed_in_linear_time() {
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
        // These units leave a quote open: the second occurs an odd number of times.
        let open = unit == r#"\""# || unit == r#"\\""#;
        let expected = if open { PROXY } else { CLIENT };
        let line = format!("{garbage}, for=203.0.113.7");
        assert_eq!(read(ELEMENTS, &[line]), expected, "{unit}");
    }
}

/// Generates header values of a malicious client: spoofed entries among arbitrary bytes.
fn attack() -> impl Strategy<Value = Vec<u8>> {
    let special = select(b"\"\"\"\\\\,;= \tfor[]:.%016".to_vec());
    let any = any::<u8>().prop_filter("not valid in a header", |&byte| {
        byte == b'\t' || (byte >= b' ' && byte != 0x7f)
    });
    let noise = many(prop_oneof![4 => special, 1 => any], 0..12);
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

/// Returns the canonical form of an address: the IPv4 address that is mapped or embedded in it, if
/// any.
fn canonical(address: IpAddr) -> IpAddr {
    reading(LIST, ClientIp::peer()).address(address, &HeaderMap::new())
}

/// Generates the address with a port, an IPv6 address in brackets.
fn with_port(address: IpAddr) -> impl Strategy<Value = String> {
    any::<u16>().prop_map(move |port| std::net::SocketAddr::new(address, port).to_string())
}

/// Generates an entry of a plain list.
fn entry(address: IpAddr) -> BoxedStrategy<String> {
    prop_oneof![Just(address.to_string()), with_port(address)].boxed()
}

/// Generates a quoted string of the text with required and some needless quoted-pairs.
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

/// Generates an element as a proxy writes it, with other parameters that the client may choose.
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

/// Generates the entries that proxies add: the client, then all proxies but the last, which is the
/// peer.
fn chain(
    write: fn(IpAddr) -> BoxedStrategy<String>,
) -> impl Strategy<Value = (IpAddr, Vec<String>)> {
    let client = address().prop_filter("not an address of a client", |&address| {
        let address = canonical(address);
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

/// Returns a reader that trusts networks and a reader that counts hops.
fn readers(name: &str, entries: usize) -> [ClientIp; 2] {
    [behind("10.0.0.0/8"), ClientIp::behind_hops(entries)].map(|reader| reading(name, reader))
}

const COMMA: &str = "[ \t]{0,2},[ \t]{0,2}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_input_panics(
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
                    prop_assert_eq!(canonical(address), address);
                }
            }
        }
    }

    #[test]
    fn entries_to_the_left_do_not_change_a_list(
        attacks in many(attack(), 0..3),
        (client, entries) in chain(entry),
        comma in COMMA,
    ) {
        let lines = [attacks, vec![entries.join(&comma).into_bytes()]].concat();
        for client_ip in readers(LIST, entries.len()) {
            let address = client_ip.address(PROXY, &headers(LIST, &lines));
            prop_assert_eq!(address, canonical(client), "on earlier lines");

            let line = lines.join(comma.as_bytes());
            let address = client_ip.address(PROXY, &headers(LIST, &[line]));
            prop_assert_eq!(address, canonical(client), "on the same line");
        }
    }

    #[test]
    fn elements_to_the_left_do_not_change_forwarded(
        attacks in many(attack(), 0..3),
        (client, elements) in chain(element),
        comma in COMMA,
    ) {
        let of_proxies = elements.join(&comma);
        let quotes = attacks.concat().contains(&b'"');
        let lines = [attacks, vec![of_proxies.clone().into_bytes()]].concat();
        for client_ip in readers(ELEMENTS, elements.len()) {
            let address = client_ip.address(PROXY, &headers(ELEMENTS, &lines));
            prop_assert_eq!(address, canonical(client), "on earlier lines");

            let line = [of_proxies.as_str(); 3].join(&comma);
            let address = client_ip.address(PROXY, &headers(ELEMENTS, &[line]));
            prop_assert_eq!(address, canonical(client), "after well-formed elements, quotes and all");

            // A quote of the client can make the line unreadable, but cannot change the address.
            let line = lines.join(comma.as_bytes());
            let address = client_ip.address(PROXY, &headers(ELEMENTS, &[line]));
            let hidden = quotes && address == PROXY;
            prop_assert!(hidden || address == canonical(client), "on the same line: {}", address);
        }
    }
}

/// A 6to4 host has the 65,536 networks of `2002:V4::/48` (RFC 3056), where V4 is its IPv4 address.
#[test]
fn sixto4_address_counts_as_its_ipv4_host() {
    let forwarded = headers(LIST, &["203.0.113.7"]);
    let trusting = behind("10.0.0.0/8");
    for address in ["2002:a00:5::1", "2002:a00:5:1::1", "2002:a00:5:ffff::2"] {
        assert_eq!(Identity::ip(ip(address)), Identity::ip(ip("10.0.0.5")));
        assert_eq!(trusting.address(ip(address), &forwarded), ip("10.0.0.5"));
    }
    assert_eq!(read(LIST, &["6.6.6.6, 2002:a00:9::1"]), ip("10.0.0.9"));
}

#[test]
fn configured_nat64_prefixes_count_as_ipv4_clients() {
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
        let unconfigured = peer.clone().address(ip(address), &HeaderMap::new());
        assert!(unconfigured.is_ipv6(), "{prefix} is not configured");
        let configured = peer.nat64_prefixes([prefix.parse().unwrap()]).unwrap();
        let counted = configured.address(ip(address), &HeaderMap::new());
        assert_eq!(counted, ip("192.0.2.33"), "{prefix}");
    }
    for invalid in [
        "10.0.0.0/8",
        "2001:db8::/33",
        "2001:db8::1/64",
        "2001:db8::/128",
    ] {
        let refused = ClientIp::peer().nat64_prefixes([invalid.parse().unwrap()]);
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(invalid) && error.contains("/48"), "{error}");
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

/// RFC 7239, section 6.2. A node with a port should be quoted, which some proxies do not do.
#[test]
fn forwarded_node_accepts_ports_quoted_or_not() {
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
