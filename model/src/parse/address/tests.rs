use super::*;

#[test]
fn targets_take_their_port_from_the_scheme() {
    let check = |value: &str, expected: &str| {
        let shown = match parse_target(value) {
            Ok(t) => format!("{:?} {} {} {}", t.scheme, t.host, t.port, t.path),
            Err(wrong) => format!("{} {}", wrong.code, wrong.suggestion.unwrap_or_default()),
        };
        assert_eq!(shown.trim_end(), expected, "{value}");
    };
    check("localhost:3000", "Http localhost 3000");
    check("10.0.0.1:80", "Http 10.0.0.1 80");
    check("http://App.Example.com", "Http app.example.com 80");
    check("https://app.example.com", "Https app.example.com 443");
    check("h2c://app:50051", "H2c app 50051");
    check("[::1]:80", "Http [::1] 80");
    check("https://[2001:db8::1]", "Https [2001:db8::1] 443");
    check("http://a:1/x/y", "Http a 1 /x/y");
    check("http://a_b.c:1/", "Http a_b.c 1 /");
    check("::1", "bare_ipv6 \"[::1]:80\"");
    check("http://::1:80", "bare_ipv6 \"http://[::1]:80\"");
    check("https://::1:80/x", "bare_ipv6 \"https://[::1]:80/x\"");
    check("2001:db8::1", "bare_ipv6 \"[2001:db8::1]:80\"");
    check("a:b:c", "bare_ipv6");
    check("localhost", "bad_address localhost:80");
    check("a:0", "bad_address");
    check("a:65536", "bad_address");
    check("a:+1", "bad_address");
    check("ftp://a", "bad_address");
    check("grpc://a:1", "bad_address h2c://a:1");
    check("http://user:pw@a", "userinfo_in_address");
    check("http://a?x=1", "query_in_address http://a");
    check("http://a/b#c", "fragment_in_address http://a/b");
    check("http://", "bad_address");
    check("10.0.0.300:80", "bad_address");
    check("exämple.com:80", "bad_address");
    check("a b:80", "bad_address");
    check("[::1", "bad_address");
    check("[::1]x", "bad_address");
}

#[test]
fn listen_addresses_are_ips_or_every_address() {
    let check = |value: &str, expected: &str| {
        let shown = match listen_address(value) {
            Ok(address) => address.to_string(),
            Err(wrong) => format!("{} {}", wrong.code, wrong.suggestion.unwrap_or_default()),
        };
        assert_eq!(shown.trim_end(), expected, "{value}");
    };
    check(":8080", ":8080");
    check("*:8080", ":8080");
    check("0.0.0.0:80", "0.0.0.0:80");
    check("[::]:80", "[::]:80");
    check("localhost:80", "127.0.0.1:80");
    check("8080", "bad_address \":8080\"");
    check("example.com:80", "bad_address");
    check("http://:8080/", "bad_address :8080");
    check("127.0.0.1", "bad_address");
    check("::1:80", "bare_ipv6 \"[::1]:80\"");
    check(":::80", "bare_ipv6 \"[::]:80\"");
}

#[test]
fn hosts_are_exact_or_have_a_leading_wildcard() {
    let check = |value: &str, expected: &str| {
        let shown = match parse_host_match(value) {
            Ok(HostMatch::Exact(name)) => name,
            Ok(HostMatch::Wildcard(name)) => format!("*.{name}"),
            Err(wrong) => format!("{} {}", wrong.code, wrong.suggestion.unwrap_or_default()),
        };
        assert_eq!(shown.trim_end(), expected, "{value}");
    };
    check("API.example.com.", "api.example.com");
    check("*.Example.com", "*.example.com");
    check("[::1]", "::1");
    check("10.0.0.1", "10.0.0.1");
    check("localhost", "localhost");
    check("a.com:80", "bad_host a.com");
    check("https://a.com/x", "bad_host a.com");
    check("a.com/x", "bad_host a.com");
    check("*", "bad_host");
    check("a.*.com", "bad_host");
    check("", "bad_host");
    assert!(looks_like_regex(r".*\.example\.com"));
    assert!(!looks_like_regex("*.example.com"));
    assert!(!looks_like_regex("[::1]"));
}
