// GRAFT_PLANTED(n): a place where bug number n can be switched on, to prove that the simulation
// finds it. Constant false except in the target graft_scheduler_core_planted; the list of bugs
// stands in tests/sim/planted.cc.
#pragma once

#ifdef GRAFT_WITH_PLANTED_BUGS
namespace graft::scheduler {
// 0: none. Set by a test before it builds a core.
extern int planted_bug;
}  // namespace graft::scheduler
#define GRAFT_PLANTED(n) (::graft::scheduler::planted_bug == (n))
#else
#define GRAFT_PLANTED(n) false
#endif
