//! The file of tokens: each line that says something gives its user to its token and to no other; of a
//! file with a mistake the first wrong line is told.

use std::collections::BTreeMap;

use strongroom_protocol::{MatrixError, UserId};
use strongroom_server::{
    AccessToken, Authenticator as _, Credentials, FixedTokens, Freshness, TokensError,
};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match FixedTokens::parse(text) {
        Ok(tokens) => {
            let mut users = BTreeMap::new();
            for line in text.lines().map(words).filter(says_something) {
                let [token, user] = line[..] else { panic!("taken: {line:?}") };
                assert_eq!(users.insert(token, user), None, "{token:?} stands twice");
            }
            // A token that no request can carry lets nobody in.
            users.retain(|token, _| AccessToken::parse(token).is_some());
            for (token, user) in &users {
                assert_eq!(ask(&tokens, token), Ok((*user).to_owned()));
                let other = format!("{token}x");
                if !users.contains_key(other.as_str()) {
                    assert_eq!(ask(&tokens, &other), Err(MatrixError::UnknownToken));
                }
            }
            assert_eq!(ask(&tokens, ""), Err(MatrixError::UnknownToken));
        }
        Err(error @ (TokensError::Line { line } | TokensError::Repeated { line })) => {
            let before: Vec<_> = text.lines().take(line - 1).collect();
            FixedTokens::parse(&before.join("\n")).expect("it is the first wrong line");
            let wrong = words(text.lines().nth(line - 1).unwrap());
            let is_good = matches!(wrong[..], [_, user] if UserId::parse(user).is_ok());
            let mut tokens = before.into_iter().map(words).filter(says_something);
            let is_repeated = tokens.any(|earlier| earlier[0] == wrong[0]);
            let is_told = matches!(error, TokensError::Repeated { .. });
            assert!(says_something(&wrong), "{error}: {wrong:?}");
            assert_eq!((is_good, is_good && is_repeated), (is_told, is_told), "{error}: {wrong:?}");
        }
        Err(error) => panic!("{error}"),
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn says_something(line: &Vec<&str>) -> bool {
    line.first().is_some_and(|word| !word.starts_with('#'))
}

fn ask(tokens: &FixedTokens, token: &str) -> Result<String, MatrixError> {
    let token = AccessToken::parse(token).ok_or(MatrixError::UnknownToken)?;
    let credentials = Credentials {
        token,
        user_id: None,
        device_id: None,
        host: None,
        address: None,
        freshness: Freshness::AskedNow,
    };
    let requester = super::run_to_the_end(tokens.requester(&credentials));
    requester.map(|requester| requester.user_id.to_string())
}
