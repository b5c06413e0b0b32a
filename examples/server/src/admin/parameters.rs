use axum::extract::Query;
use axum::extract::rejection::QueryRejection;

use crate::decide::Refusal;

/// The parameters of a query, as an extractor returns them.
pub(super) type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Returns the values of these parameters, and refuses every other one.
pub(super) fn read<const N: usize>(
    pairs: Pairs,
    known: [&str; N],
) -> Result<[Option<String>; N], Refusal> {
    let Query(pairs) = pairs.map_err(|error| Refusal::unreadable(error.body_text()))?;
    let mut values = [const { None }; N];
    for (name, value) in pairs {
        let Some(index) = known.iter().position(|known| *known == name) else {
            let known = known.join(", ");
            let problem = format!("there is no such parameter; there are: {known}");
            return Err(Refusal::invalid(&name, problem));
        };
        if values[index].replace(value).is_some() {
            return Err(Refusal::invalid(&name, "is there twice"));
        }
    }
    Ok(values)
}
