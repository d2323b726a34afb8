// Arithmetic on Splits, a number at a time, so that kernels take them as they take vectors.
#pragma once

#include "cpu/vec.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

RESEMB_INLINE Split operator+(Split a, Split b) { return {a.even + b.even, a.odd + b.odd}; }
RESEMB_INLINE Split operator-(Split a, Split b) { return {a.even - b.even, a.odd - b.odd}; }
RESEMB_INLINE Split operator*(Split a, Split b) { return {a.even * b.even, a.odd * b.odd}; }
RESEMB_INLINE Split operator/(Split a, Split b) { return {a.even / b.even, a.odd / b.odd}; }
RESEMB_INLINE Split operator+(Split a, float b) { return {a.even + b, a.odd + b}; }
RESEMB_INLINE Split operator*(Split a, float b) { return {a.even * b, a.odd * b}; }
RESEMB_INLINE Split operator*(float a, Split b) { return b * a; }
RESEMB_INLINE Split& operator+=(Split& a, Split b) { return a = a + b; }
RESEMB_INLINE Split& operator*=(Split& a, float b) { return a = a * b; }
RESEMB_INLINE float sum_lanes(Split v) { return sum_lanes(v.even + v.odd); }

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
