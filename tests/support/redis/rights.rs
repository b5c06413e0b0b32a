//! Users of Redis with the rights that examples/server/deploy/redis-rights.txt lists.

use super::Server;

const LIST: &str = include_str!("../../../examples/server/deploy/redis-rights.txt");

/// The rights that are listed for these purposes.
pub(crate) fn rights(purposes: &[&str]) -> Vec<&'static str> {
    let of = |purpose: &&str| {
        let mut lines = LIST.lines().filter_map(|line| line.split_once(": "));
        let line = lines.find(|(name, _)| name == purpose);
        let (_, rights) = line.unwrap_or_else(|| panic!("the list has {purpose}"));
        rights.split(' ')
    };
    purposes.iter().flat_map(of).collect()
}

/// Makes the user `tollgate`, whose password is `secret`, with no other rights.
pub(crate) async fn make_user(server: &Server, purposes: &[&str]) {
    let user = ["ACL", "SETUSER", "tollgate", "reset", "on", ">secret"];
    let keys = ["~tollgate:*"];
    let words = [&user[..], &keys, &rights(purposes)].concat();
    server.command(&words).await;
}

/// The server's URL for that user.
pub(crate) fn url_of_user(server: &Server) -> String {
    server.url().replace("redis://", "redis://tollgate:secret@")
}

/// Asserts that the server has refused nothing for want of a right.
pub(crate) async fn assert_none_missing(server: &Server) {
    let refused: Vec<redis::Value> = server.ask(&["ACL", "LOG"]).await;
    assert!(refused.is_empty(), "{refused:#?}");
}
