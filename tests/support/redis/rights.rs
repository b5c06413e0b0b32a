//! Redis users that have only the rights listed in `examples/server/deploy/redis-rights.txt`.

use super::Server;

const LIST: &str = include_str!("../../../examples/server/deploy/redis-rights.txt");

/// Returns the rights listed for these purposes, such as `["counts", "cluster"]`.
pub(crate) fn rights(purposes: &[&str]) -> Vec<&'static str> {
    let rights_of = |purpose: &&str| {
        let mut lines = LIST.lines().filter_map(|line| line.split_once(": "));
        let line = lines.find(|(name, _)| name == purpose);
        let (_, rights) = line.unwrap_or_else(|| panic!("{purpose} is not in the list"));
        rights.split(' ')
    };
    purposes.iter().flat_map(rights_of).collect()
}

/// Creates the user `tollgate` with the password `secret` and the rights for these purposes.
pub(crate) async fn create_user(server: &Server, purposes: &[&str]) {
    let user = ["ACL", "SETUSER", "tollgate", "reset", "on", ">secret"];
    let keys = ["~tollgate:*"];
    let words = [&user[..], &keys, &rights(purposes)].concat();
    server.command(&words).await;
}

/// Returns the server's URL with the credentials of [`create_user`].
pub(crate) fn user_url(server: &Server) -> String {
    server.url().replace("redis://", "redis://tollgate:secret@")
}

/// Asserts that the server has denied no command for want of a right.
pub(crate) async fn assert_none_denied(server: &Server) {
    let denied: Vec<redis::Value> = server.query(&["ACL", "LOG"]).await;
    assert!(denied.is_empty(), "{denied:#?}");
}
