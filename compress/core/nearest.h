// "Did you mean": the names of a table that are nearest to what a user wrote.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace compress {

// The candidate with the smallest edit distance, or an empty view where none is within a third of
// the length.
std::string_view nearest(std::string_view name, std::span<const std::string_view> candidates);

// " (did you mean 'x'?)" or ", one of a, b, c": the tail of an error about an unknown name.
std::string suggestion(std::string_view name, std::span<const std::string_view> candidates);

}  // namespace compress
