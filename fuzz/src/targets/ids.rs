//! An id that is taken is the text that was given, bounded, without NUL; a version has one spelling.

use strongroom_protocol::{BadId, DeviceId, ID_BYTES_MAX, RoomId, SessionId, UserId, Version};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let is_bounded = text.len() <= ID_BYTES_MAX && !text.contains('\0');
    let texts = [
        RoomId::parse(text).map(|id| id.to_string()),
        SessionId::parse(text).map(|id| id.to_string()),
        DeviceId::parse(text).map(|id| id.to_string()),
    ];
    for got in texts {
        assert_eq!(got.as_deref().ok(), is_bounded.then_some(text));
    }
    match UserId::parse(text) {
        Ok(user_id) => {
            assert!(is_bounded && user_id.as_str() == text, "{text:?}");
            let local_part = text.strip_suffix(user_id.server_name()).unwrap();
            assert!(local_part.starts_with('@') && local_part.ends_with(':'), "{text:?}");
            assert_eq!(local_part.matches(':').count(), 1, "{text:?}");
            assert!(!user_id.server_name().is_empty(), "{text:?}");
        }
        Err(BadId::TooLong | BadId::Nul) => assert!(!is_bounded, "{text:?}"),
        Err(BadId::NotAUserId) => {
            let server_name = text.split_once(':').map_or("", |(_, server_name)| server_name);
            assert!(!text.starts_with('@') || server_name.is_empty(), "{text:?}");
        }
    }
    let version = text.parse::<Version>().ok().map(Version::get);
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = digits && (text == "0" || !text.starts_with('0'));
    assert_eq!(version, text.parse().ok().filter(|_| is_plain), "{text:?}");
}
