#include "fileservice/transfer/allocator.h"

#include <malloc.h>

namespace graft::fileservice {

void TuneAllocatorForTransfers() {
  mallopt(M_MMAP_THRESHOLD, 256 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

}  // namespace graft::fileservice
