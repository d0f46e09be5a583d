#include "fileservice/transfer/http_tls.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace graft::fileservice {
namespace {

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using Bio = std::unique_ptr<BIO, FreeBio>;

Bio Reading(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// The certificate first, then those that signed it.
bool UseChain(SSL_CTX* context, const std::string& pem) {
  const Bio bio = Reading(pem);
  X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr);
  if (certificate == nullptr) return false;
  const bool used = SSL_CTX_use_certificate(context, certificate) == 1;
  X509_free(certificate);
  if (!used) return false;
  while (X509* signer = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    if (SSL_CTX_add0_chain_cert(context, signer) == 1) continue;
    X509_free(signer);
    return false;
  }
  return true;
}

bool UseKey(SSL_CTX* context, const std::string& pem) {
  EVP_PKEY* key = PEM_read_bio_PrivateKey(Reading(pem).get(), nullptr, nullptr, nullptr);
  if (key == nullptr) return false;
  const bool used = SSL_CTX_use_PrivateKey(context, key) == 1;
  EVP_PKEY_free(key);
  return used && SSL_CTX_check_private_key(context) == 1;
}

int AtMostInt(size_t size) { return static_cast<int>(std::min<size_t>(size, INT_MAX)); }

}  // namespace

void TlsServer::Free::operator()(ssl_ctx_st* context) const { SSL_CTX_free(context); }

absl::StatusOr<std::unique_ptr<TlsServer>> TlsServer::Make(const std::string& certificate,
                                                           const std::string& key) {
  std::unique_ptr<ssl_ctx_st, Free> context(SSL_CTX_new(TLS_server_method()));
  if (context == nullptr) return absl::InternalError("OpenSSL makes no context");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  if (!UseChain(context.get(), certificate)) {
    return absl::InvalidArgumentError("tls_certificate holds no certificate as PEM");
  }
  if (!UseKey(context.get(), key)) {
    return absl::InvalidArgumentError("tls_key holds no key as PEM that fits tls_certificate");
  }
  return std::unique_ptr<TlsServer>(new TlsServer(std::move(context)));
}

void TlsConnection::Free::operator()(ssl_st* ssl) const { SSL_free(ssl); }

TlsConnection::TlsConnection(const TlsServer& server, int fd)
    : ssl_(SSL_new(server.context_.get())) {
  SSL_set_fd(ssl_.get(), fd);
}

TlsConnection::~TlsConnection() {
  if (open_) SSL_shutdown(ssl_.get());
}

bool TlsConnection::Accept() {
  open_ = SSL_accept(ssl_.get()) == 1;
  return open_;
}

ssize_t TlsConnection::Send(const char* data, size_t size) {
  const int sent = SSL_write(ssl_.get(), data, AtMostInt(size));
  if (sent <= 0) open_ = false;  // after a failure nothing more may be said
  return sent;
}

ssize_t TlsConnection::Receive(char* out, size_t size) {
  const int got = SSL_read(ssl_.get(), out, AtMostInt(size));
  if (got <= 0 && SSL_get_error(ssl_.get(), got) != SSL_ERROR_ZERO_RETURN) open_ = false;
  return got;
}

}  // namespace graft::fileservice
