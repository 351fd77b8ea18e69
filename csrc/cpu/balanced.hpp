// The exact optimum of  max sum_i x[i, label_i]  with low_k <= size_k <= high_k,  sum_k size_k = n.
//
// Of every row the entries near its top are kept (candidates).  On these the assignment is solved
// exactly by shortest augmenting paths over the k classes: an edge from class c to d moves the
// member i of c that loses least by it, (x_ic + g_c) - (x_id + g_d) >= 0, and g rises by the
// distances, so that every label stays the largest candidate of x + g.  A read of all rows then
// finds the rows for which an entry that was not kept is larger; they are relabelled, their
// candidates completed, and the paths go on.  No such row: labels and g prove each other optimal.
//
// Sizes between bounds: class c takes low_c rows, and hands up to high_c - low_c more to a common
// node, the pool, which takes n - sum(low).  The pool is node k of the graph; its arcs cost 0.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "passes.hpp"

namespace sinkhorn {

// An entry of a row that may become its label; 12 bytes, there may be ten millions of them.
struct __attribute__((packed, aligned(4))) Candidate {
  double value;
  uint32_t column;
};

// Rows that a read looks at: those at `rows.data`, the first of which is row `first` of all.
struct Span {
  Rows rows;
  int64_t first;
  int threads;
};

// What a read for the certificate adds up over the rows, without rounding that matters.
struct Certificate {
  double objective = 0;  // sum of x[i, label_i]
  double slack = 0;      // sum of max_k(x[i, k] + g_k) - (x[i, label_i] + g_label_i)
};

class Balancer {
 public:
  enum class State { done, busy, stuck };

  Balancer(int64_t n, std::vector<int64_t> low, std::vector<int64_t> high);

  // --- reads; each is called for spans that cover all rows in order (balanced_rows.cpp)

  // Keeps of each row at most `width` entries that are less than `window` below the top of x + g.
  // Among equal entries each row begins at another column.  The first bad row, or -1.
  BadRow collect(const Span& span, const double* g, double window, int64_t width);
  // Adds the rows up, and notes those whose label is not the largest entry, with entries within
  // `window` of the largest.
  void check(const Span& span, double window, int64_t width);
  // For rows of classes that the last search reached: keeps the best entry of all other classes,
  // and a few besides.  The number of rows that have one.
  int64_t look_outside(const Span& span);

  // --- work on the candidates (balanced_labels.cpp, balanced_paths.cpp)

  // Labels of largest x + g; among equal ones that of the emptiest class.  Rows too many somewhere.
  int64_t start(const double* g);
  // Takes the labels of largest x + g for the rows that `check` has noted.  Their number.
  int64_t relabel();
  // Phases of augmenting paths until there is nothing to repair, or no path, or time is up.
  State repair(double seconds);

  int64_t noted() const { return int64_t(noted_.size()); }
  int64_t to_repair() const;  // rows too many somewhere
  int64_t phases() const { return phases_; }
  int64_t moves() const { return moves_; }
  int64_t kept() const { return kept_; }
  const Certificate& certificate() const { return certificate_; }
  const std::vector<double>& g() const { return g_; }  // k + 1: that of the pool last
  const std::vector<int64_t>& counts() const { return counts_; }
  // Rows of each class whose first label had no equal.
  const std::vector<int64_t>& decided() const { return decided_; }
  std::vector<bool> reached() const;  // k + 1: nodes that the last search reached
  void labels(int64_t* out) const;

 private:
  struct Row {
    const Candidate* list;
    uint32_t count;
    uint32_t label;
    uint32_t place;  // among the members of its class, or kNowhere
    double own() const;
  };
  // The cheapest way from a class to another: `row` is the member that loses least.
  struct Arc {
    double loss;  // x[row, from] - x[row, to]
    uint32_t to, row;
  };
  struct Noted {
    int64_t row;
    std::vector<Candidate> entries;
  };
  // What a phase knows of a class that a path has visited.
  struct Visit {
    size_t next = 0;                          // arc that is tried next
    size_t scanned = 0;                       // members that were looked at
    std::vector<std::vector<uint32_t>> rows;  // by arc: those of them that can move for nothing
  };
  struct Step {
    uint32_t from, to, row;  // row: kPool for a step to or from the pool
  };
  static constexpr uint32_t kPool = UINT32_MAX, kNowhere = UINT32_MAX;

  void store(int64_t row, const std::vector<Candidate>& entries);
  void join(uint32_t row);
  uint32_t emptiest(const Row& row) const;
  void share_out_pool(const std::vector<int64_t>& counts);
  double target(int64_t c) const { return double(low_[size_t(c)] + pooled_[size_t(c)]); }
  void find_arcs();
  void find_arcs_of(uint32_t c, std::vector<int64_t>& at);
  void offer(uint32_t c, uint32_t i, std::vector<Arc>& arcs, std::vector<int64_t>& at);
  double tolerance(double own) const;
  double cost(const Arc& arc, uint32_t from) const;
  bool search();
  void raise_potentials();
  bool augment(uint32_t source);
  bool advance(uint32_t at, Step& step);
  bool step_by_row(uint32_t at, size_t a, Step& step);
  void scan(uint32_t c, size_t a);
  void move(uint32_t row, uint32_t to);

  int64_t n_, k_;
  int threads_ = 1;  // of the last read
  std::vector<int64_t> low_, high_;
  std::vector<double> g_;
  double largest_g_ = 0;
  std::vector<Row> rows_;
  std::vector<std::unique_ptr<Candidate[]>> memory_;
  int64_t kept_ = 0;
  std::vector<Noted> noted_;
  Certificate certificate_;
  double certificate_low_[2] = {0, 0};  // what rounding took off its two sums

  std::vector<int64_t> counts_, pooled_;  // rows of each class; those of them that the pool takes
  std::vector<int64_t> decided_;          // what `start` gave each class before it shared out ties
  std::vector<int64_t> excess_;           // counts - low - pooled
  std::vector<std::vector<uint32_t>> members_, joined_;  // joined: since arcs were found
  std::vector<std::vector<Arc>> arcs_;
  std::vector<char> stale_;  // classes whose members have changed since their arcs were found

  // of the last search, by node
  std::vector<double> distance_;
  std::vector<uint32_t> hops_;
  std::vector<char> settled_;
  std::vector<Visit> visits_;
  std::vector<int64_t> arc_to_;  // arcs by the class that they lead to, of class arc_to_class_
  int64_t arc_to_class_ = -1;
  size_t pool_next_ = 0;      // class that the pool tries next
  bool pool_closed_ = false;  // no way on from the pool
  int64_t phases_ = 0, moves_ = 0;
};

}  // namespace sinkhorn
