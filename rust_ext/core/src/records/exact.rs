//! Means of decimals, exact up to one correct rounding.

use crate::read::number::ONE;
use num_bigint::{BigInt, BigUint, Sign};

/// Integers up to here are doubles.
const EXACT: u64 = 1 << 53;

/// [`mean`] of `count` decimals that add up to `scaled / 10^6`.
#[inline]
pub fn mean_scaled(scaled: i64, count: u64) -> f64 {
    quick(scaled, count).unwrap_or_else(|| mean(i128::from(scaled), count, &[]))
}

/// The same if sum and count are doubles, which is nearly always: one division is one rounding.
#[inline]
fn quick(scaled: i64, count: u64) -> Option<f64> {
    let exact = scaled.unsigned_abs() < EXACT && count < EXACT / ONE as u64;
    exact.then(|| scaled as f64 / (count * ONE as u64) as f64)
}

/// The mean of `count` decimals that add up to `scaled / 10^6` plus all `mantissa * 10^exponent`.
///
/// The one rounding is to the nearest double, ties to even; so the order of addition cannot matter.
#[must_use]
pub fn mean(scaled: i128, count: u64, others: &[(i16, i128)]) -> f64 {
    if others.is_empty()
        && let Ok(scaled) = i64::try_from(scaled)
        && let Some(mean) = quick(scaled, count)
    {
        return mean;
    }
    let lowest = others.iter().map(|&(exponent, _)| exponent).min().unwrap_or(0).min(-6);
    let shift =
        |exponent: i16| BigInt::from(10).pow((i32::from(exponent) - i32::from(lowest)) as u32);
    let sum = others.iter().fold(BigInt::from(scaled) * shift(-6), |sum, &(exponent, mantissa)| {
        sum + BigInt::from(mantissa) * shift(exponent)
    });
    let denominator = BigUint::from(count) * BigUint::from(10_u32).pow(i32::from(-lowest) as u32);
    let (sign, numerator) = sum.into_parts();
    let magnitude = nearest(numerator, &denominator);
    if sign == Sign::Minus { -magnitude } else { magnitude }
}

/// `numerator / denominator` to the nearest double, ties to even, subnormals included.
fn nearest(numerator: BigUint, denominator: &BigUint) -> f64 {
    const BITS: i64 = 62;
    /// One more bit than the smallest subnormal has, and one to stick.
    const FINEST: i64 = 1076;
    let gap = numerator.bits() as i64 - denominator.bits() as i64;
    let shift = (BITS - gap).min(FINEST);
    let (top, bottom) = if shift >= 0 {
        (numerator << shift as u64, denominator.clone())
    } else {
        (numerator, denominator << (-shift) as u64)
    };
    let quotient = &top / &bottom;
    let inexact = u64::from(&quotient * &bottom != top);
    let bits = quotient.iter_u64_digits().next().unwrap_or(0) | inexact;
    scale(bits as f64, -shift)
}

/// `value * 2^exponent`, rounded at most once.
fn scale(value: f64, exponent: i64) -> f64 {
    let step = |power: i64| f64::from_bits(((power + 1023) as u64) << 52);
    if exponent < -1000 {
        value * step(-1000) * step(exponent + 1000)
    } else {
        value * step(exponent.min(1000)) * step((exponent - 1000).max(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_means() {
        assert_eq!(mean(600_000, 2, &[]), 0.3);
        assert_eq!(mean(0, 1, &[(-17, 30_000_000_000_000_004)]), 0.300_000_000_000_000_04);
        assert_eq!(mean(0, 1, &[(-324, 5)]), 5e-324);
        assert_eq!(mean(0, 3, &[(-324, 5)]), 0.0);
        assert_eq!(mean(0, 1, &[(308, 1)]), 1e308);
        assert_eq!(mean(0, 2, &[(308, -2)]), -1e308);
        // 0.1 + 0.2 + 0.3 in doubles, divided by 3, is not 0.2.
        assert_eq!(mean(600_000, 3, &[]), 0.2);
    }

    proptest! {
        #[test]
        fn one_double_is_its_own_mean(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            use crate::read::number::{Number, number_of};
            let got = match number_of(value) {
                Number::Scaled(scaled) => mean(i128::from(scaled), 1, &[]),
                Number::Decimal(mantissa, exponent) => mean(0, 1, &[(exponent, i128::from(mantissa))]),
                _ => f64::NAN,
            };
            prop_assert_eq!(got, value);
        }

        #[test]
        fn the_slow_way_equals_the_fast_way(scaled in -(1_i64 << 54)..(1_i64 << 54), count in 1_u64..1_000_000) {
            let slow = mean(0, count, &[(-6, i128::from(scaled))]);
            prop_assert_eq!(mean_scaled(scaled, count), slow);
            prop_assert_eq!(mean(i128::from(scaled), count, &[]), slow);
        }
    }
}
