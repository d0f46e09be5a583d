// The allocator's settings for programs that move bulk data. Call once, at the start of main.
#pragma once

namespace graft::fileservice {

// Large receive buffers would otherwise be mapped, faulted in and unmapped for each message, which
// halves the rate of an upload.
void TuneAllocatorForTransfers();

}  // namespace graft::fileservice
