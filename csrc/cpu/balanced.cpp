// Shortest augmenting paths over the classes, on the candidates of the rows.
#include "balanced.hpp"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>
#include <numeric>
#include <queue>

namespace sinkhorn {

namespace {

constexpr double kFar = INFINITY;
constexpr uint32_t kUnreached = UINT32_MAX;
constexpr size_t kAlone = 1 << 16;  // members that one thread looks at sooner than two

}  // namespace

Balancer::Balancer(int64_t n, std::vector<int64_t> low, std::vector<int64_t> high)
    : n_(n),
      k_(int64_t(low.size())),
      low_(std::move(low)),
      high_(std::move(high)),
      g_(size_t(k_) + 1, 0.),
      rows_(size_t(n)),
      counts_(size_t(k_)),
      pooled_(size_t(k_)),
      excess_(size_t(k_)),
      members_(size_t(k_)),
      joined_(size_t(k_)),
      arcs_(size_t(k_)),
      stale_(size_t(k_)),
      distance_(size_t(k_) + 1),
      hops_(size_t(k_) + 1),
      settled_(size_t(k_) + 1),
      visits_(size_t(k_)),
      arc_to_(size_t(k_)) {}

double Balancer::Row::own() const {
  for (uint32_t e = 0; e < count; ++e)
    if (list[e].column == label) return list[e].value;
  return NAN;  // the label is always among the candidates
}

// Gives a row more candidates than it has.
void Balancer::store(int64_t i, const std::vector<Candidate>& entries) {
  Row& row = rows_[size_t(i)];
  std::vector<Candidate> all(row.list, row.list + row.count);
  for (const Candidate& entry : entries)
    if (std::none_of(row.list, row.list + row.count,
                     [&](const Candidate& old) { return old.column == entry.column; }))
      all.push_back(entry);
  memory_.emplace_back(new Candidate[all.size()]);
  std::copy(all.begin(), all.end(), memory_.back().get());
  kept_ += int64_t(all.size());
  row.list = memory_.back().get();
  row.count = uint32_t(all.size());
  if (row.count > 1 && row.place == kNowhere)
    join(uint32_t(i));
  else if (row.count > 1)
    joined_[row.label].push_back(uint32_t(i));
  stale_[row.label] = 1;
}

// Members are the rows that can move: those with another candidate than their label.
void Balancer::join(uint32_t i) {
  Row& row = rows_[i];
  row.place = uint32_t(members_[row.label].size());
  members_[row.label].push_back(i);
  joined_[row.label].push_back(i);
  stale_[row.label] = 1;
}

// The classes of smallest g hand all they may to the pool, as its best use is.  The marginal ones,
// of equal g, hand over what fits `counts` best.
void Balancer::share_out_pool(const std::vector<int64_t>& counts) {
  int64_t left = n_ - std::accumulate(low_.begin(), low_.end(), int64_t(0));
  std::vector<int64_t> order(static_cast<size_t>(k_));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t c, int64_t d) { return g_[size_t(c)] < g_[size_t(d)]; });
  std::fill(pooled_.begin(), pooled_.end(), 0);
  for (size_t first = 0, last; first < order.size(); first = last) {
    const double level = g_[size_t(order[first])];
    for (last = first; last < order.size() && g_[size_t(order[last])] == level;) ++last;
    if (left == 0 && first > 0) break;
    g_[size_t(k_)] = level;
    for (int pass = 0; pass < 2; ++pass)  // what fits, then what is left
      for (size_t at = first; at < last; ++at) {
        const size_t c = size_t(order[at]);
        const int64_t room = high_[c] - low_[c] - pooled_[c];
        const int64_t wanted = pass ? room : std::min(room, counts[c] - low_[c] - pooled_[c]);
        const int64_t taken = std::min(left, std::max<int64_t>(wanted, 0));
        pooled_[c] += taken;
        left -= taken;
      }
  }
}

int64_t Balancer::start(const double* g) {
  std::copy(g, g + k_, g_.begin());
  largest_g_ = 0;
  for (int64_t c = 0; c < k_; ++c)
    if (std::isfinite(g[c])) largest_g_ = std::max(largest_g_, std::fabs(g[c]));
  std::fill(counts_.begin(), counts_.end(), 0);
  std::vector<uint32_t> undecided;
  const auto top_of = [&](const Row& row) {
    double top = -kFar;
    for (uint32_t e = 0; e < row.count; ++e)
      top = std::max(top, row.list[e].value + g_[row.list[e].column]);
    return top;
  };
  for (int64_t i = 0; i < n_; ++i) {
    Row& row = rows_[size_t(i)];
    const double top = top_of(row), bound = top - tolerance(top);
    int ties = 0;
    for (uint32_t e = 0; e < row.count; ++e)
      if (row.list[e].value + g_[row.list[e].column] >= bound && ++ties == 1)
        row.label = row.list[e].column;
    if (ties > 1)
      undecided.push_back(uint32_t(i));
    else
      ++counts_[row.label];
  }
  share_out_pool(counts_);
  std::vector<double> room(static_cast<size_t>(k_));
  for (int64_t c = 0; c < k_; ++c) room[size_t(c)] = target(c) - double(counts_[size_t(c)]);
  for (uint32_t i : undecided) {
    Row& row = rows_[i];
    const double top = top_of(row), bound = top - tolerance(top);
    double most = -kFar;
    for (uint32_t e = 0; e < row.count; ++e) {
      const uint32_t c = row.list[e].column;
      if (row.list[e].value + g_[c] >= bound && room[c] > most) {
        most = room[c];
        row.label = c;
      }
    }
    --room[row.label];
    ++counts_[row.label];
  }
  share_out_pool(counts_);
  for (size_t c = 0; c < size_t(k_); ++c) {
    members_[c].clear();
    joined_[c].clear();
    arcs_[c].clear();
  }
  for (int64_t i = 0; i < n_; ++i) {
    rows_[size_t(i)].place = kNowhere;
    if (rows_[size_t(i)].count > 1) join(uint32_t(i));
  }
  for (size_t c = 0; c < size_t(k_); ++c) excess_[c] = counts_[c] - low_[c] - pooled_[c];
  std::fill(stale_.begin(), stale_.end(), 1);
  return to_repair();
}

int64_t Balancer::to_repair() const {
  int64_t total = 0;
  for (int64_t e : excess_) total += std::max<int64_t>(e, 0);
  return total;
}

int64_t Balancer::relabel() {
  int64_t changed = 0;
  for (const Noted& noted : noted_) {
    store(noted.row, noted.entries);
    Row& row = rows_[size_t(noted.row)];
    const Candidate* best = row.list;
    for (const Candidate* e = row.list; e < row.list + row.count; ++e)
      if (e->value + g_[e->column] > best->value + g_[best->column]) best = e;
    if (best->column == row.label) continue;
    ++changed;
    --excess_[row.label];
    ++excess_[best->column];
    move(uint32_t(noted.row), best->column);
  }
  noted_.clear();
  return changed;
}

void Balancer::move(uint32_t i, uint32_t to) {
  Row& row = rows_[i];
  std::vector<uint32_t>& old = members_[row.label];
  old[row.place] = old.back();
  rows_[old.back()].place = row.place;
  old.pop_back();
  stale_[row.label] = 1;
  --counts_[row.label];
  ++counts_[to];
  row.label = to;
  join(i);
  ++moves_;
}

// Finds anew the arcs of classes whose members have changed.
void Balancer::find_arcs() {
  std::vector<uint32_t> stale;
  size_t members = 0;
  for (uint32_t c = 0; c < uint32_t(k_); ++c)
    if (stale_[c]) {
      stale.push_back(c);
      members += members_[c].size();
    }
  const int threads = members < kAlone ? 1 : std::max(1, threads_);
  std::vector<std::vector<int64_t>> best(static_cast<size_t>(threads));
  bool failed = false;  // an exception may not leave a parallel region
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (size_t s = 0; s < stale.size(); ++s) {
    try {
      std::vector<int64_t>& mine = best[size_t(omp_get_thread_num())];
      mine.resize(static_cast<size_t>(k_), -1);
      find_arcs_of(stale[s], mine);
    } catch (const std::bad_alloc&) {
#pragma omp atomic write
      failed = true;
    }
  }
  if (failed) throw std::bad_alloc();
}

// `at` holds, for each class, the arc to it, and is -1 everywhere before and after.
void Balancer::find_arcs_of(uint32_t c, std::vector<int64_t>& at) {
  std::vector<Arc>& arcs = arcs_[c];
  std::vector<char> lost(arcs.size());
  size_t missing = 0;
  for (size_t a = 0; a < arcs.size(); ++a) {
    at[arcs[a].to] = int64_t(a);
    lost[a] = rows_[arcs[a].row].label != c;
    missing += lost[a];
  }
  for (uint32_t i : joined_[c])
    if (rows_[i].label == c) offer(c, i, arcs, at);
  joined_[c].clear();
  lost.resize(arcs.size());
  // a lost arc goes by the best member that is left; one as good as the lost one is the best
  std::vector<Arc> found(arcs);
  for (size_t a = 0; a < lost.size(); ++a)
    if (lost[a]) found[a].loss = kFar;
  for (size_t m = 0; m < members_[c].size() && missing > 0; ++m) {
    const Row& row = rows_[members_[c][m]];
    const double own = row.own();
    for (uint32_t e = 0; e < row.count; ++e) {
      const int64_t a = at[row.list[e].column];
      if (a < 0 || !lost[size_t(a)]) continue;
      const double loss = own - row.list[e].value;
      if (loss < found[size_t(a)].loss)
        found[size_t(a)] = {loss, row.list[e].column, members_[c][m]};
      if (loss <= arcs[size_t(a)].loss) {
        lost[size_t(a)] = 0;
        --missing;
      }
    }
  }
  for (const Arc& arc : arcs) at[arc.to] = -1;
  found.erase(
      std::remove_if(found.begin(), found.end(), [](const Arc& arc) { return arc.loss == kFar; }),
      found.end());
  arcs.swap(found);
  stale_[c] = 0;
}

// Looks whether a member makes an arc of its class shorter.
void Balancer::offer(uint32_t c, uint32_t i, std::vector<Arc>& arcs, std::vector<int64_t>& at) {
  const Row& row = rows_[i];
  const double own = row.own();
  for (uint32_t e = 0; e < row.count; ++e) {
    const uint32_t to = row.list[e].column;
    if (to == c) continue;
    const double loss = own - row.list[e].value;
    if (at[to] < 0) {
      at[to] = int64_t(arcs.size());
      arcs.push_back({loss, to, i});
    } else if (Arc& arc = arcs[size_t(at[to])]; loss < arc.loss && rows_[arc.row].label == c) {
      arc = {loss, to, i};
    }
  }
}

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

void Balancer::labels(int64_t* out) const {
  for (size_t i = 0; i < rows_.size(); ++i) out[i] = rows_[i].label;
}

}  // namespace sinkhorn
