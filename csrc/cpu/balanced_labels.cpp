// Labels, members and arcs: what is known of the classes from the candidates of their rows.
//
// A label is always the largest candidate of x + g.  Members of a class are its rows that have
// another candidate; an arc to another class is the member that loses least by moving there.  Arcs
// are found anew only for classes whose members have changed, and of these only what can differ.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>

#include "balanced.hpp"

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
  decided_ = counts_;
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

// Of the classes of the largest x + g that with the fewest rows too many.
uint32_t Balancer::emptiest(const Row& row) const {
  double top = -kFar;
  for (uint32_t e = 0; e < row.count; ++e)
    top = std::max(top, row.list[e].value + g_[row.list[e].column]);
  const double bound = top - tolerance(top);
  uint32_t best = kUnreached;
  for (uint32_t e = 0; e < row.count; ++e) {
    const uint32_t c = row.list[e].column;
    if (row.list[e].value + g_[c] >= bound && (best == kUnreached || excess_[c] < excess_[best]))
      best = c;
  }
  return best;
}

int64_t Balancer::relabel() {
  int64_t changed = 0;
  for (const Noted& noted : noted_) {
    store(noted.row, noted.entries);
    Row& row = rows_[size_t(noted.row)];
    const uint32_t best = emptiest(row);
    if (best == row.label) continue;
    ++changed;
    --excess_[row.label];
    ++excess_[best];
    move(uint32_t(noted.row), best);
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

void Balancer::labels(int64_t* out) const {
  for (size_t i = 0; i < rows_.size(); ++i) out[i] = rows_[i].label;
}

}  // namespace sinkhorn
