// How many threads are worth starting on this machine; see runtime/threads.py.
#pragma once

namespace camscribe::core {

// Cores this process may use, at least 1: no hyper-threads, no cores outside its affinity or its container's quota.
int physical_cores();

}  // namespace camscribe::core
