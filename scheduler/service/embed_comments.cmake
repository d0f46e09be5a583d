# Makes a C++ file of the bytes of IN: cmake -DIN=... -DOUT=... -P embed_comments.cmake
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" bytes
  "${bytes}")
file(WRITE ${OUT} "#include \"scheduler/service/job_spec_comments.h\"
namespace graft::scheduler {
extern const unsigned char kJobSpecComments[] = {
${bytes}};
extern const size_t kJobSpecCommentsSize = sizeof kJobSpecComments;
}  // namespace graft::scheduler
")
