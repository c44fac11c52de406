//! `/docs`: the description to read and to try (Swagger UI). It is a part of the program: no other server is asked.

use std::sync::Arc;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use runtime::http::{Code, Problem, Result};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, serve};

use super::App;

/// Only what comes from here; the pages set styles in their elements and have pictures as `data:`.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
);

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(entry))
        .route("/docs/", get(async || file("index.html")))
        .route("/docs/{*file}", get(named))
}

/// This description as pages
#[utoipa::path(
    get, path = "/docs", operation_id = "getDocs", tag = "Server",
    responses((status = 303, description = "To the pages")),
)]
async fn entry() -> Redirect {
    Redirect::to("docs/")
}

async fn named(name: std::result::Result<Path<String>, PathRejection>) -> Result<Response> {
    let Path(name) = name.map_err(|_| Problem::new(Code::UnknownRoute))?;
    file(&name)
}

fn file(name: &str) -> Result<Response> {
    // Nobody else is told which description is looked at.
    let config = Config::new(["../openapi.json"]).validator_url("none").display_request_duration(true);
    let found = serve(name, Arc::new(config)).map_err(Problem::internal)?;
    let file = found.ok_or_else(|| Problem::new(Code::UnknownRoute))?;
    let mut response = ([(header::CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_are_within_the_program_and_load_nothing_from_elsewhere() {
        for name in ["index.html", "swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
            let page = file(name).expect(name);
            assert_eq!(page.headers()[header::CONTENT_SECURITY_POLICY], POLICY, "{name}");
        }
        assert_eq!(file("nothing").expect_err("is not there").code(), Code::UnknownRoute);
    }
}
