#include "rpc/tls_material.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace graft::rpc {
namespace {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using KeyPtr = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using CertPtr = std::unique_ptr<X509, Deleter<X509_free>>;
using BioPtr = std::unique_ptr<BIO, Deleter<BIO_free_all>>;

absl::Status Failed(absl::string_view what) {
  return absl::InternalError(absl::StrCat("OpenSSL cannot ", what));
}

std::string Text(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

// X.509 extensions as OpenSSL's configuration language writes them.
absl::Status AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  if (extension == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("'", value, "' cannot stand in a certificate"));
  }
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
  return absl::OkStatus();
}

absl::StatusOr<std::string> AlternativeNames(const std::vector<std::string>& names) {
  std::vector<std::string> entries;
  for (const std::string& name : names) {
    if (name.empty() || name.find_first_of(",\n\r\"\\;= \t") != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", name, "' is no host name, URI or address"));
    }
    ASN1_OCTET_STRING* address = a2i_IPADDRESS(name.c_str());
    const char* type = address != nullptr               ? "IP:"
                       : absl::StrContains(name, "://") ? "URI:"
                                                        : "DNS:";
    ASN1_OCTET_STRING_free(address);
    entries.push_back(absl::StrCat(type, name));
  }
  return absl::StrJoin(entries, ",");
}

struct Issuer {
  X509* certificate;
  EVP_PKEY* key;
};

// Without an issuer the certificate is a self-signed authority.
absl::StatusOr<CertificateAndKey> Make(const CertificateRequest& request, const Issuer* issuer) {
  const KeyPtr key(EVP_EC_gen("P-256"));
  const CertPtr certificate(X509_new());
  uint8_t serial[16];
  if (key == nullptr || certificate == nullptr || RAND_bytes(serial, sizeof(serial)) != 1) {
    return Failed("make a key");
  }
  serial[0] &= 0x7f;  // positive
  X509_set_version(certificate.get(), 2);
  BIGNUM* number = BN_bin2bn(serial, sizeof(serial), nullptr);
  BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate.get()));
  BN_free(number);
  ASN1_TIME_set(X509_getm_notBefore(certificate.get()), absl::ToTimeT(request.not_before));
  ASN1_TIME_set(X509_getm_notAfter(certificate.get()),
                absl::ToTimeT(request.not_before + request.lifetime));
  X509_set_pubkey(certificate.get(), key.get());
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                             reinterpret_cast<const uint8_t*>(request.common_name.c_str()), -1, -1,
                             0);
  X509* signer = issuer == nullptr ? certificate.get() : issuer->certificate;
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(signer));

  X509* raw = certificate.get();
  GRAFT_RETURN_IF_ERROR(AddExtension(raw, signer, NID_subject_key_identifier, "hash"));
  GRAFT_RETURN_IF_ERROR(AddExtension(raw, signer, NID_authority_key_identifier, "keyid:always"));
  if (issuer == nullptr) {
    GRAFT_RETURN_IF_ERROR(
        AddExtension(raw, signer, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
    GRAFT_RETURN_IF_ERROR(AddExtension(raw, signer, NID_key_usage, "critical,keyCertSign,cRLSign"));
  } else {
    GRAFT_RETURN_IF_ERROR(AddExtension(raw, signer, NID_basic_constraints, "critical,CA:FALSE"));
    GRAFT_RETURN_IF_ERROR(AddExtension(raw, signer, NID_key_usage, "critical,digitalSignature"));
    GRAFT_RETURN_IF_ERROR(AddExtension(raw, signer, NID_ext_key_usage, "serverAuth,clientAuth"));
  }
  if (!request.names.empty()) {
    GRAFT_ASSIGN_OR_RETURN(const std::string names, AlternativeNames(request.names));
    GRAFT_RETURN_IF_ERROR(AddExtension(raw, signer, NID_subject_alt_name, names));
  }
  if (X509_sign(raw, issuer == nullptr ? key.get() : issuer->key, EVP_sha256()) == 0) {
    return Failed("sign the certificate");
  }
  const BioPtr certificate_pem(BIO_new(BIO_s_mem())), key_pem(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(certificate_pem.get(), raw) != 1 ||
      PEM_write_bio_PrivateKey(key_pem.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) !=
          1) {
    return Failed("write the certificate");
  }
  return CertificateAndKey{Text(certificate_pem.get()), Text(key_pem.get())};
}

}  // namespace

absl::StatusOr<CertificateAndKey> MakeAuthority(const CertificateRequest& request) {
  return Make(request, nullptr);
}

absl::StatusOr<CertificateAndKey> MakeCertificate(const CertificateAndKey& authority,
                                                  const CertificateRequest& request) {
  const BioPtr certificate_pem(BIO_new_mem_buf(authority.certificate.data(),
                                               static_cast<int>(authority.certificate.size())));
  const BioPtr key_pem(BIO_new_mem_buf(authority.private_key.data(),
                                       static_cast<int>(authority.private_key.size())));
  const CertPtr certificate(PEM_read_bio_X509(certificate_pem.get(), nullptr, nullptr, nullptr));
  const KeyPtr key(PEM_read_bio_PrivateKey(key_pem.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr || key == nullptr) {
    return absl::InvalidArgumentError("the authority's certificate or key is no PEM text");
  }
  const Issuer issuer{certificate.get(), key.get()};
  return Make(request, &issuer);
}

}  // namespace graft::rpc
