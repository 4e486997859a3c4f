use super::*;

#[test]
fn refusal_shows_errno_kernel_message_and_remedy() {
    let refusal = Refusal { errno: 100, detail: Some("Device for nexthop is not up".into()) };
    assert_eq!(
        refusal.to_string(),
        "Network is down (os error 100), the kernel's message is \"Device for nexthop is not up\" (the interface \
         is down; retried when that changes)"
    );
    let refusal = Refusal { errno: 1, detail: None };
    assert!(refusal.to_string().contains("needs CAP_NET_ADMIN: run as root"), "{refusal}");
}

#[test]
fn extack_message_follows_repeated_header() {
    let mut payload = vec![0; 16];
    // NLMSGERR_ATTR_OFFS = 2 (u32), then NLMSGERR_ATTR_MSG = 1 ("no\0").
    payload.extend([8, 0, 2, 0, 1, 2, 3, 4].map(|byte: u8| byte));
    payload.extend([7, 0, 1, 0, b'n', b'o', 0, 0]);
    if cfg!(target_endian = "little") {
        assert_eq!(kernel_words(&payload).as_deref(), Some("no"));
    }
    assert_eq!(kernel_words(&[0; 16]), None);
    assert_eq!(kernel_words(&[]), None);
}
