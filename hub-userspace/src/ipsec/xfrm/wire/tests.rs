use super::*;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// In from 10.10.10.0/24, TCP port 22, to 192.168.0.0/24, by a tunnel from 198.51.100.10 to 203.0.113.1, reqid 1.
fn policy_bytes() -> Vec<u8> {
    let mut body = vec![0; POLICY];
    put(&mut body, 0, &[192, 168, 0, 0]);
    put(&mut body, 16, &[10, 10, 10, 0]);
    put(&mut body, 36, &22_u16.to_be_bytes());
    put(&mut body, 38, &[0xff, 0xff]);
    put(&mut body, 40, &AF_INET.to_ne_bytes());
    put(&mut body, 42, &[24, 24, 6]);
    let mut template = vec![0; TEMPLATE];
    put(&mut template, 0, &[203, 0, 113, 1]);
    template[20] = 50;
    put(&mut template, 24, &AF_INET.to_ne_bytes());
    put(&mut template, 28, &[198, 51, 100, 10]);
    put(&mut template, 44, &1_u32.to_ne_bytes());
    template[48] = 1;
    body.extend(attribute(XFRMA_TMPL, &template));
    body
}

fn sa_bytes(keys: bool) -> Vec<u8> {
    let mut body = vec![0; SA];
    put(&mut body, 56, &[203, 0, 113, 1]);
    put(&mut body, 72, &0xc123_4567_u32.to_be_bytes());
    body[76] = 50;
    put(&mut body, 80, &[198, 51, 100, 10]);
    put(&mut body, 160, &4096_u64.to_ne_bytes());
    put(&mut body, 176, &1_700_000_000_u64.to_ne_bytes());
    put(&mut body, 208, &1_u32.to_ne_bytes());
    put(&mut body, 212, &AF_INET.to_ne_bytes());
    body[214] = 1;
    if keys {
        body.extend(attribute(XFRMA_ALG_AEAD, b"never-to-be-seen"));
    }
    body
}

pub fn example_policy() -> XfrmPolicy {
    policy(&policy_bytes()).expect("a policy")
}

pub fn example_sa() -> Sa {
    sa(&sa_bytes(true)).expect("an SA")
}

#[test]
fn policy_message_is_parsed() {
    let policy = example_policy();
    assert_eq!((policy.direction, policy.protocol, policy.if_id), (Direction::In, 6, 0));
    assert_eq!((policy.source.prefix.to_string(), policy.source.port), ("10.10.10.0/24".to_owned(), 22));
    assert_eq!((policy.destination.prefix.to_string(), policy.destination.port_mask), ("192.168.0.0/24".to_owned(), 0));
    let template = policy.templates[0];
    assert_eq!((template.protocol, template.reqid, template.mode), (50, 1, 1));
    assert_eq!(
        (template.source.to_string(), template.destination.to_string()),
        ("198.51.100.10".to_owned(), "203.0.113.1".to_owned())
    );
    let with_if_id = [policy_bytes(), attribute(XFRMA_IF_ID, &7_u32.to_ne_bytes())].concat();
    assert_eq!(super::policy(&with_if_id).map(|policy| policy.if_id), Some(7));
    let mut block = policy_bytes();
    block[161] = 1;
    assert_eq!(super::policy(&block), None, "one that blocks");
    assert_eq!(super::policy(&policy_bytes()[..POLICY]), None, "one without IPsec");
}

#[test]
fn sa_message_is_parsed_without_keys() {
    let sa = example_sa();
    assert_eq!((sa.spi, sa.protocol, sa.reqid, sa.mode), (0xc123_4567, 50, 1, 1));
    assert_eq!((sa.bytes, sa.added, sa.source.to_string()), (4096, 1_700_000_000, "198.51.100.10".to_owned()));
    assert!(!format!("{sa:?}").contains("never"));
    assert_eq!(super::sa(&sa_bytes(false)), None, "one that is being negotiated");
}

#[test]
fn dump_answers_are_selected_by_sequence_number() {
    let datagram = [
        message(NEW_POLICY, 2, 5, &policy_bytes()),
        message(NEW_SA, 2, 4, &sa_bytes(true)),
        message(NEW_SA, 2 | NLM_F_DUMP_INTR, 5, &sa_bytes(true)),
        message(NLMSG_DONE, 2, 5, &[0; 4]),
    ]
    .concat();
    let found: Vec<(XfrmMessage, bool)> = answers(&datagram, 5).collect();
    assert_eq!(
        found,
        [
            (XfrmMessage::Policy(example_policy()), false),
            (XfrmMessage::Sa(example_sa()), true),
            (XfrmMessage::Done, false)
        ]
    );
    let refused = message(NLMSG_ERROR, 0, 5, &(-1_i32).to_ne_bytes());
    assert_eq!(answers(&refused, 5).next(), Some((XfrmMessage::Error(1), false)));
}

#[test]
fn truncated_or_corrupt_datagram_does_not_panic() {
    let datagram = [message(NEW_POLICY, 2, 5, &policy_bytes()), message(NEW_SA, 2, 5, &sa_bytes(true))].concat();
    for length in 0..datagram.len() {
        assert!(answers(&datagram[..length], 5).count() <= 2);
        let cut = message(NEW_POLICY, 2, 5, &datagram[HEADER.min(length)..length]);
        assert!(answers(&cut, 5).count() <= 1);
        let mut spoilt = datagram.clone();
        spoilt[length] ^= 0xff;
        assert!(answers(&spoilt, 5).count() <= 16);
    }
}

#[test]
fn dump_request_is_bare_header() {
    let request = Dump::Policies.request(7);
    if cfg!(target_endian = "little") {
        assert_eq!(request, [16, 0, 0, 0, 0x15, 0, 1, 3, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Dump::Sas.request(7)[4], 0x12);
    }
}
