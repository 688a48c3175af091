#include "threads.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace camscribe::core {

#ifdef __linux__

namespace {

// The hyper-threads that share a core with `cpu`, as the kernel writes them.
std::string siblings(int cpu) {
  std::string line;
  std::getline(std::ifstream("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list"),
               line);
  return line.empty() ? std::to_string(cpu) : line;
}

// CPUs the container may keep busy; 0 where there is no limit.
double quota() {
  double allowed = 0, period = 0;
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  if (file) {
    return file >> allowed >> period && period > 0 ? allowed / period : 0;  // "max" is no number
  }
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> allowed;
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  return allowed > 0 && period > 0 ? allowed / period : 0;
}

}  // namespace

int physical_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return std::max(1U, std::thread::hardware_concurrency() / 2);
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cores.insert(siblings(cpu));
  }
  const double limit = quota();
  const int found = int(cores.size());
  return std::max(1, limit > 0 ? std::min(found, int(std::nearbyint(limit))) : found);
}

#else

int physical_cores() { return int(std::max(1U, std::thread::hardware_concurrency() / 2)); }

#endif

}  // namespace camscribe::core
