// Graphs of If, Loop and Scan as passes see and edit them.
#pragma once

#include "compress/graph/model.h"

namespace compress {

// What surrounds a body, with the body's graph moved in: passes see bodies as models. The graph
// goes back when this ends.
class BodyModel {
 public:
  BodyModel(const Model& outer, Graph& body) : body_(body) {
    model.ir_version = outer.ir_version;
    model.opsets = outer.opsets;
    model.graph = std::move(body_);
  }
  ~BodyModel() { body_ = std::move(model.graph); }
  BodyModel(const BodyModel&) = delete;
  BodyModel& operator=(const BodyModel&) = delete;

  Model model;

 private:
  Graph& body_;
};

// Puts `changed` in the place of a node. Its outputs are those of the node, or some of them: they
// take over names and readers, and nothing may use the others. Returns the new node.
NodeId replace_with(Graph& graph, NodeId id, Node changed);

// Captures that no node of their body reads go, from the innermost bodies outwards; what they held
// up goes with eliminate_dead.
bool drop_unused_captures(Graph& graph);

// A constant of a body that the graph around it holds as well is read from there, so that the file
// has it once. Nested bodies included. Returns how many.
int64_t share_constants_with_bodies(Graph& graph);

}  // namespace compress
