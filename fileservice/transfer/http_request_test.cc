#include "fileservice/transfer/http_request.h"

#include "base/status_matchers.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::HasSubstr;

TEST(HttpRequestTest, PathAndQueryAreDecodedOnce) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const HttpRequest request,
      ParseHttpRequest("GET /a/%2e%2e%2f%252e/%C3%A9?x=1%262&y HTTP/1.1\r\nHost: h\r\n\r\n"));
  // What it means is for CheckPath to judge; here nothing is decoded twice.
  EXPECT_EQ(request.path, "/a/../%2e/\xC3\xA9");
  EXPECT_EQ(request.query.at("x"), "1&2");
  EXPECT_EQ(request.query.at("y"), "");
  EXPECT_EQ(request.Header("host"), "h");
  EXPECT_TRUE(request.keep_alive);
}

TEST(HttpRequestTest, DoubtfulRequestsAreRefused) {
  for (const char* head : {
           "GET /\r\n\r\n",
           "GET  / HTTP/1.1\r\n\r\n",
           "GET / HTTP/2.0\r\n\r\n",
           "GET http://h/ HTTP/1.1\r\n\r\n",
           "GET /%0 HTTP/1.1\r\n\r\n",
           "GET /%zz HTTP/1.1\r\n\r\n",
           "GET /%00 HTTP/1.1\r\n\r\n",
           "GET /?a=1&a=2 HTTP/1.1\r\n\r\n",
           "GET / HTTP/1.1\r\nA: 1\r\na: 2\r\n\r\n",
           "GET / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n",
           "GET / HTTP/1.1\r\nA : 1\r\n\r\n",
           "GET / HTTP/1.1\r\n: 1\r\n\r\n",
           "GET / HTTP/1.1\r\nA: 1\n\r\n\r\n",
           "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
           "PUT / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
           "PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
           "PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
           "GET / HTTP/1.1\r\n",
           "",
       }) {
    EXPECT_THAT(ParseHttpRequest(head), StatusIs(absl::StatusCode::kInvalidArgument)) << head;
  }
}

struct RangeCase {
  const char* header;
  int64_t offset;
  int64_t length;  // 0: the whole is sent; -1: it cannot be satisfied
};

TEST(HttpRequestTest, RangesOfTenBytes) {
  for (const RangeCase& one : {RangeCase{"bytes=0-0", 0, 1},
                               {"bytes=2-5", 2, 4},
                               {"bytes=2-", 2, 8},
                               {"bytes=0-99", 0, 10},
                               {"bytes=9-99999999999999999999", 9, 1},
                               {"bytes=-3", 7, 3},
                               {"bytes=-99", 0, 10},
                               {"bytes=10-", 0, -1},
                               {"bytes=99999999999999999999-", 0, -1},
                               {"bytes=-0", 0, -1},
                               {"", 0, 0},
                               {"bytes=5-2", 0, 0},
                               {"bytes=-", 0, 0},
                               {"bytes=1-2,4-5", 0, 0},
                               {"bytes=a-b", 0, 0},
                               {"bytes= 1-2", 0, 0},
                               {"rows=1-2", 0, 0}}) {
    const auto range = ParseRange(one.header, 10);
    if (one.length < 0) {
      EXPECT_THAT(range, StatusIs(absl::StatusCode::kOutOfRange)) << one.header;
      continue;
    }
    ASSERT_THAT(range, IsOk()) << one.header;
    EXPECT_EQ(range->has_value(), one.length > 0) << one.header;
    if (!range->has_value()) continue;
    EXPECT_EQ((*range)->offset, one.offset) << one.header;
    EXPECT_EQ((*range)->length, one.length) << one.header;
  }
}

}  // namespace
}  // namespace graft::fileservice
