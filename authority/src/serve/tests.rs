//! What only the inside can arrange: a database that has no room for more.

use sealane_proto::v1::config_service_client::ConfigServiceClient;
use sealane_proto::v1::{GetRevisionRequest, PublishRequest};
use tonic::Code;
use tonic::transport::Endpoint;

use super::start;
use crate::settings::Settings;

#[tokio::test]
async fn a_full_disk_refuses_the_publish_clearly_and_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::loopback(folder.path());
    settings.dev = true;
    let authority = start(settings).await.unwrap();
    let url = format!("http://{}", authority.grpc_addr());
    let mut client = ConfigServiceClient::new(Endpoint::from_shared(url).unwrap().connect_lazy());
    let text = "listen: :8080\nroutes:\n  - path_prefix: /\n    to: http://localhost:3000\n";
    let publish = |more: usize| PublishRequest {
        config_yaml: format!("{text}{}", "# nothing to see here, but it takes up space\n".repeat(more)),
        ..PublishRequest::default()
    };
    client.publish(publish(0)).await.unwrap();

    let writer = authority.app.store.writer_for_test();
    let (pages,): (i64,) = sqlx::query_as("PRAGMA page_count").fetch_one(writer).await.unwrap();
    let bound = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages + 4));
    sqlx::query(bound).execute(writer).await.unwrap();
    let refused = client.publish(publish(9_000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("disk of the database is full"), "{}", refused.message());
    let newest = client.get_revision(GetRevisionRequest::default()).await.unwrap().into_inner().revision.unwrap();
    assert_eq!((newest.revision, newest.state.as_str()), (1, "completed"));

    // The bound was the connection's, and a connection that failed is not used again: there is room now.
    let again = client.publish(publish(9_000)).await.unwrap().into_inner();
    assert_eq!(again.revision.unwrap().revision, 2);
    authority.stop().await;
}
