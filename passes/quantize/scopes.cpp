// Dynamic and weight-only quantization in the bodies of If, Loop and Scan. A body sees what it
// captures; for as long as a mode runs, captured constants are constants of the body as well, and
// what the mode made of them is captured again at the end where the graph around has the same.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "passes/bodies.h"
#include "passes/quantize/linear.h"

namespace compress {
namespace {

struct Scope {
  std::unique_ptr<BodyModel> body;  // null: the model itself
  std::unique_ptr<QuantJob> own;    // of a body
  QuantJob* job = nullptr;
  // Where the body hangs, and what it captures there.
  size_t parent = 0;
  NodeId node = kNoNode;
  std::vector<Body::Capture> captures;
  std::vector<std::pair<ValueId, TypeInfo>> lent;  // captures that are constants for now
  Candidates found;

  Graph& graph() const { return job->model.graph; }
};

class Scopes {
 public:
  explicit Scopes(QuantJob& job) : job_(job) {
    scopes_.emplace_back().job = &job;
    open_bodies(0);
    for (size_t at = 1; at < scopes_.size(); ++at) lend_constants(scopes_[at]);
  }

  ~Scopes() {
    while (!scopes_.empty()) scopes_.pop_back();  // bodies go back into what holds them
  }
  Scopes(const Scopes&) = delete;
  Scopes& operator=(const Scopes&) = delete;

  void run(const std::function<void(QuantJob&, Candidates)>& mode) {
    for (Scope& scope : scopes_) scope.found = find_candidates(*scope.job);
    leave_shared();
    take_back([&](size_t at, ValueId inner) {
      return !is_candidate(scopes_[at], inner) && reads_of(home_of(at, inner)) > 1;
    });
    for (Scope& scope : scopes_) mode(*scope.job, std::move(scope.found));
    take_back([](size_t, ValueId) { return true; });
    for (size_t at = 1; at < scopes_.size(); ++at) take_results(scopes_[at]);
  }

 private:
  void open_bodies(size_t at) {
    const std::vector<NodeId> order = scopes_[at].graph().order();
    for (const NodeId id : order) {
      const size_t bodies = scopes_[at].graph().node(id).bodies.size();
      for (size_t k = 0; k < bodies; ++k) {
        const Body& body = scopes_[at].graph().node(id).bodies[k];
        Scope scope;
        scope.parent = at;
        scope.node = id;
        scope.captures = body.captures;
        scope.body = std::make_unique<BodyModel>(job_.model, *body.graph);
        Model& model = scope.body->model;
        scope.own = std::make_unique<QuantJob>(
            QuantJob{model, job_.options, nullptr, Selection(job_.options)});
        scope.own->in_body = true;
        scope.own->sizes_only = job_.sizes_only;
        if (job_.restrict) job_.restrict(scope.own->selection, model.graph);
        scope.job = scope.own.get();
        scopes_.push_back(std::move(scope));
        open_bodies(scopes_.size() - 1);
      }
    }
  }

  // Matrices: what a mode makes integers of.
  void lend_constants(Scope& scope) {
    const Graph& outer = scopes_[scope.parent].graph();
    for (const Body::Capture& capture : scope.captures) {
      const Value& value = outer.value(capture.outer);
      if (!value.is_constant() || value.constant.dtype() != DType::float32 ||
          value.constant.shape().rank() < 2) {
        continue;
      }
      scope.lent.emplace_back(capture.inner, scope.graph().value(capture.inner).type);
      scope.graph().set_constant(capture.inner, value.constant);
    }
  }

  // Decided on all of them first: who reads a constant is told by what is lent.
  void take_back(const std::function<bool(size_t, ValueId)>& is_to_go) {
    std::vector<std::pair<size_t, ValueId>> gone;
    for (size_t at = 0; at < scopes_.size(); ++at) {
      for (const auto& [inner, type] : scopes_[at].lent) {
        if (is_to_go(at, inner)) gone.emplace_back(at, inner);
      }
    }
    for (const auto& [at, inner] : gone) {
      Scope& scope = scopes_[at];
      const auto row = std::find_if(scope.lent.begin(), scope.lent.end(),
                                    [id = inner](const auto& lent) { return lent.first == id; });
      scope.graph().set_constant(inner, Tensor());
      scope.graph().set_type(inner, row->second);
      scope.lent.erase(row);
    }
  }

  static bool is_candidate(const Scope& scope, ValueId weight) {
    const auto has = [&](const auto& rows) {
      return std::any_of(rows.begin(), rows.end(),
                         [&](const auto& row) { return row.weight == weight; });
    };
    return has(scope.found.linears) || has(scope.found.tables);
  }

  // --- Who reads a constant ---------------------------------------------------------------------

  struct Place {
    size_t scope;
    ValueId value;
  };

  // The graph that holds a constant which a body was lent.
  Place home_of(size_t at, ValueId id) const {
    for (;;) {
      const Scope& scope = scopes_[at];
      const auto lent = std::find_if(scope.lent.begin(), scope.lent.end(),
                                     [&](const auto& row) { return row.first == id; });
      if (lent == scope.lent.end()) return {at, id};
      const auto capture = std::find_if(scope.captures.begin(), scope.captures.end(),
                                        [&](const Body::Capture& row) { return row.inner == id; });
      id = capture->outer;
      at = scope.parent;
    }
  }

  // Calls visit(scope, node) for every reader, those in bodies included, with kNoNode where the
  // value is an output of a graph. Where a Transpose alone stands between, `through` it.
  void for_each_reader(Place place, bool through,
                       const std::function<void(const Scope&, NodeId)>& visit) const {
    const Scope& scope = scopes_[place.scope];
    const Graph& graph = scope.graph();
    if (graph.is_output(place.value)) visit(scope, kNoNode);
    for (const Use& use : graph.uses(place.value)) {
      const Node& node = graph.node(use.node);
      if (static_cast<size_t>(use.slot) < node.inputs.size()) {
        if (through && node.is("Transpose") && !graph.is_output(node.outputs[0])) {
          for (const Use& next : graph.uses(node.outputs[0])) visit(scope, next.node);
        } else {
          visit(scope, use.node);
        }
        continue;
      }
      // A body captures it: its readers there, of each capture once.
      for (size_t at = place.scope + 1; at < scopes_.size(); ++at) {
        const Scope& inner = scopes_[at];
        if (inner.parent != place.scope || inner.node != use.node) continue;
        for (const Body::Capture& capture : inner.captures) {
          if (capture.outer == place.value) for_each_reader({at, capture.inner}, through, visit);
        }
      }
    }
  }

  int64_t reads_of(Place place) const {
    int64_t count = 0;
    for_each_reader(place, false, [&](const Scope&, NodeId) { ++count; });
    return count;
  }

  std::string outside_reader(Place place) const {
    std::string reason;
    for_each_reader(place, true, [&](const Scope& scope, NodeId id) {
      const auto reads = [&](const auto& rows) {
        return std::any_of(rows.begin(), rows.end(),
                           [&](const auto& row) { return row.node == id; });
      };
      if (!reason.empty() || reads(scope.found.linears) || reads(scope.found.tables)) return;
      if (id == kNoNode) {
        reason = "is a graph output";
        return;
      }
      const Node& node = scope.graph().node(id);
      reason = fmt::format("is also read by {}, which stays", describe(scope.graph(), node));
    });
    return reason;
  }

  // A constant that stays for another reader would stand in the file twice.
  void leave_shared() {
    bool shrunk = true;
    while (shrunk) {
      shrunk = false;
      for (size_t at = 0; at < scopes_.size(); ++at) {
        Scope& scope = scopes_[at];
        const auto leaves = [&](const auto& row) {
          const std::string reason = outside_reader(home_of(at, row.weight));
          if (!reason.empty()) scope.job->skip(row.node, "its constant " + reason);
          return !reason.empty();
        };
        shrunk = erase_rows(scope.found.linears, leaves) || shrunk;
        shrunk = erase_rows(scope.found.tables, leaves) || shrunk;
      }
    }
  }

  // Decided row by row on what was there before, so that the order of rows does not matter.
  template <class Row, class Leaves>
  static bool erase_rows(std::vector<Row>& rows, const Leaves& leaves) {
    std::vector<Row> kept;
    for (const Row& row : rows) {
      if (!leaves(row)) kept.push_back(row);
    }
    const bool fewer = kept.size() < rows.size();
    rows = std::move(kept);
    return fewer;
  }

  void take_results(Scope& scope) {
    QuantJob& from = *scope.own;
    job_.quantized += from.quantized;
    auto& rows = from.result.skipped;
    std::move(rows.begin(), rows.end(), std::back_inserter(job_.result.skipped));
    if (from.quantized > 0) {
      Json& bodies = job_.result.details["quantized_nodes_in_bodies"];
      bodies = (bodies.is_number() ? bodies.get<int64_t>() : 0) + from.quantized;
    }
    if (from.result.details.contains("warning")) {
      job_.result.details["warning"] = from.result.details["warning"];
    }
    for (const auto& [domain, version] : from.model.opsets)
      job_.model.opsets.emplace(domain, version);
    job_.model.ir_version = std::max(job_.model.ir_version, from.model.ir_version);
  }

  QuantJob& job_;
  std::vector<Scope> scopes_;  // the model, then bodies, each behind what holds it
};

}  // namespace

void for_each_scope(QuantJob& job, const std::function<void(QuantJob&, Candidates)>& run) {
  Scopes(job).run(run);
  drop_unused_captures(job.model.graph);
  share_constants_with_bodies(job.model.graph);
}

}  // namespace compress
