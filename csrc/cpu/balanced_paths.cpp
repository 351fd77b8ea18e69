// Shortest augmenting paths over the classes: the successive phases of the exact assignment.
//
// A phase finds distances from all classes with too many rows (Dijkstra), raises g by them, so that
// every shortest path costs nothing, and moves as many rows as it can along such paths, each one
// hop on (a blocking flow, as in the algorithms of Dinic and of Hopcroft and Karp).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <queue>
#include <stdexcept>

#include "balanced.hpp"

namespace sinkhorn {

namespace {

constexpr double kFar = INFINITY;
constexpr uint32_t kUnreached = UINT32_MAX;

}  // namespace

// What an arc costs: 0 where it differs from that by rounding.
double Balancer::cost(const Arc& arc, uint32_t from) const {
  const double cost = arc.loss + (g_[from] - g_[arc.to]);
  return cost <= tolerance(arc.loss) ? 0 : cost;
}

// Dijkstra's algorithm from all classes with too many rows, in the order of (distance, hops), until
// all classes with too few are reached.  Whether one was.
bool Balancer::search() {
  struct Entry {
    double distance;
    uint32_t hops, node;
    bool operator>(const Entry& o) const {
      if (distance != o.distance) return distance > o.distance;
      return hops != o.hops ? hops > o.hops : node > o.node;
    }
  };
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> queue;
  const uint32_t pool = uint32_t(k_);
  std::fill(distance_.begin(), distance_.end(), kFar);
  std::fill(hops_.begin(), hops_.end(), kUnreached);
  std::fill(settled_.begin(), settled_.end(), 0);
  int64_t wanted = 0;
  const auto reach = [&](uint32_t node, double distance, uint32_t hops) {
    if (settled_[node] || distance > distance_[node] ||
        (distance == distance_[node] && hops >= hops_[node]))
      return;
    distance_[node] = distance;
    hops_[node] = hops;
    queue.push({distance, hops, node});
  };
  const auto gap = [&](uint32_t from, uint32_t to) {
    const double cost = g_[from] - g_[to];
    return cost <= tolerance(0) ? 0. : cost;
  };
  for (uint32_t c = 0; c < pool; ++c) {
    if (excess_[c] > 0) reach(c, 0, 0);
    if (excess_[c] < 0) ++wanted;
  }
  bool found = false;
  while (!queue.empty() && wanted > 0) {
    const Entry at = queue.top();
    queue.pop();
    if (settled_[at.node]) continue;
    settled_[at.node] = 1;
    if (at.node == pool) {
      for (uint32_t c = 0; c < pool; ++c)
        if (pooled_[c] > 0) reach(c, at.distance + gap(pool, c), at.hops + 1);
      continue;
    }
    if (excess_[at.node] < 0) {
      found = true;
      --wanted;
    }
    for (const Arc& arc : arcs_[at.node])
      reach(arc.to, at.distance + cost(arc, at.node), at.hops + 1);
    if (pooled_[at.node] < high_[at.node] - low_[at.node])
      reach(pool, at.distance + gap(at.node, pool), at.hops + 1);
  }
  return found;
}

// Adds the distances, so that every arc on a shortest path costs nothing.
void Balancer::raise_potentials() {
  double farthest = 0;
  for (size_t c = 0; c < size_t(k_); ++c)
    if (excess_[c] < 0 && settled_[c]) farthest = std::max(farthest, distance_[c]);
  for (size_t c = 0; c <= size_t(k_); ++c) {
    g_[c] += std::min(distance_[c], farthest);
    if (!(g_[c] < kFar)) throw std::overflow_error("potentials overflow");
    if (std::isfinite(g_[c])) largest_g_ = std::max(largest_g_, std::fabs(g_[c]));
  }
}

// The next way on from class `at` by a member, along its arc `a`.
bool Balancer::step_by_row(uint32_t at, size_t a, Step& step) {
  Visit& visit = visits_[at];
  const Arc& arc = arcs_[at][a];
  step = {at, arc.to, arc.row};
  if (rows_[arc.row].label == at) return true;
  if (visit.rows.empty()) visit.rows.resize(arcs_[at].size());
  std::vector<uint32_t>& rows = visit.rows[a];
  for (;;) {
    for (; !rows.empty(); rows.pop_back()) {
      step.row = rows.back();
      if (rows_[step.row].label == at) return true;
    }
    if (visit.scanned >= members_[at].size()) return false;
    scan(at, a);
  }
}

// Goes on through the members of a class, and notes what they can do for nothing, one hop on, until
// one can go along arc `a`.  (Members that take the place of one that has left may be missed; a
// later phase finds them.)
void Balancer::scan(uint32_t c, size_t a) {
  Visit& visit = visits_[c];
  const std::vector<Arc>& arcs = arcs_[c];
  if (arc_to_class_ != int64_t(c)) {
    std::fill(arc_to_.begin(), arc_to_.end(), -1);
    for (size_t other = 0; other < arcs.size(); ++other)
      if (hops_[arcs[other].to] == hops_[c] + 1 && cost(arcs[other], c) == 0)
        arc_to_[arcs[other].to] = int64_t(other);
    arc_to_class_ = int64_t(c);
  }
  while (visit.scanned < members_[c].size() && visit.rows[a].empty()) {
    const uint32_t i = members_[c][visit.scanned++];
    const Row& row = rows_[i];
    const double own = row.own();
    for (uint32_t e = 0; e < row.count; ++e) {
      const uint32_t next = row.list[e].column;
      if (next != c && arc_to_[next] >= 0 && cost({own - row.list[e].value, next, i}, c) == 0)
        visit.rows[size_t(arc_to_[next])].push_back(i);
    }
  }
}

// The next step from a node that costs nothing and goes one hop on, if there is one left.
bool Balancer::advance(uint32_t at, Step& step) {
  const uint32_t pool = uint32_t(k_);
  const auto equal = [&](uint32_t c) { return std::fabs(g_[c] - g_[pool]) <= tolerance(0); };
  if (at == pool) {
    for (size_t& next = pool_next_; next < size_t(k_); ++next)
      if (pooled_[next] > 0 && hops_[next] == hops_[pool] + 1 && settled_[next] &&
          equal(uint32_t(next))) {
        step = {pool, uint32_t(next), kPool};
        return true;
      }
    return false;
  }
  Visit& visit = visits_[at];
  const std::vector<Arc>& arcs = arcs_[at];
  for (; visit.next < arcs.size(); ++visit.next) {
    const Arc& arc = arcs[visit.next];
    if (hops_[arc.to] == hops_[at] + 1 && settled_[arc.to] && cost(arc, at) == 0 &&
        step_by_row(at, visit.next, step))
      return true;
  }
  step = {at, pool, kPool};
  return pooled_[at] < high_[at] - low_[at] && hops_[pool] == hops_[at] + 1 && settled_[pool] &&
         !pool_closed_ && equal(at);
}

// One path from `source` to a class with too few rows: depth first, and no dead end twice a phase.
bool Balancer::augment(uint32_t source) {
  const uint32_t pool = uint32_t(k_);
  std::vector<Step> path;
  uint32_t at = source;
  while (at == pool || excess_[at] >= 0) {
    Step step;
    if (advance(at, step)) {
      path.push_back(step);
      at = step.to;
      continue;
    }
    if (path.empty()) return false;
    if (at == pool) pool_closed_ = true;
    at = path.back().from;  // nothing beyond the last step: the next one from there
    if (path.back().row != kPool || at == pool) ++(at == pool ? pool_next_ : visits_[at].next);
    path.pop_back();
  }
  ++excess_[at];
  --excess_[source];
  for (const Step& step : path) {
    if (step.row != kPool)
      move(step.row, step.to);
    else if (step.to == pool)
      ++pooled_[step.from];
    else
      --pooled_[step.to];
  }
  return true;
}

Balancer::State Balancer::repair(double seconds) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  while (to_repair() > 0) {
    find_arcs();
    if (!search()) return State::stuck;
    raise_potentials();
    ++phases_;
    for (Visit& visit : visits_) visit = {};
    arc_to_class_ = -1;
    pool_next_ = 0;
    pool_closed_ = false;
    for (uint32_t c = 0; c < uint32_t(k_); ++c)
      while (excess_[c] > 0 && augment(c)) {
      }
    const std::chrono::duration<double> spent = Clock::now() - start;
    if (to_repair() > 0 && spent.count() > seconds) return State::busy;
  }
  return State::done;
}

std::vector<bool> Balancer::reached() const {
  return std::vector<bool>(settled_.begin(), settled_.end());
}

}  // namespace sinkhorn
