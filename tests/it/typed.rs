//! Requests and answers in ruma's types: what it serialises goes over the wire as it is.

use std::borrow::Cow;

use ruma::{
    api::{
        IncomingResponse, MatrixVersion, Metadata, OutgoingRequest, SupportedVersions,
        auth_scheme::{AccessToken, SendAccessToken},
        error::{Error, FromHttpResponseError},
        path_builder::VersionHistory,
    },
    exports::http,
};
use strongroom_testing::{Answer, Server, User};

/// What ruma makes of an answer.
pub(crate) type Typed<T> = Result<T, FromHttpResponseError<Error>>;

/// Sends `request` in the name of `user`, and reads the answer as its type has it.
pub(crate) async fn send<R>(server: &Server, user: &User, request: R) -> Typed<R::IncomingResponse>
where
    R: OutgoingRequest<EndpointError = Error>
        + Metadata<Authentication = AccessToken, PathBuilder = VersionHistory>,
{
    let token = SendAccessToken::IfRequired(&user.token);
    let versions =
        SupportedVersions { versions: [MatrixVersion::V1_11].into(), features: [].into() };
    let request =
        request.try_into_http_request::<Vec<u8>>(&server.url(), token, Cow::Owned(versions));
    let (parts, body) = request.expect("ruma's own request").into_parts();

    let headers =
        parts.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let headers: Vec<_> = headers.collect();
    let path = parts.uri.path_and_query().expect("an endpoint").as_str();
    let answer = server.raw(parts.method.as_str(), path, &headers, body).await;
    R::IncomingResponse::try_from_http_response(response(answer))
}

fn response(answer: Answer) -> http::Response<Vec<u8>> {
    let mut response = http::Response::new(answer.body);
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap();
    *response.headers_mut() = answer.headers;
    response
}
