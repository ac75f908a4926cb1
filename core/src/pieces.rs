//! Slices in pieces of one size, which may be known at run time only: `chunks_exact`, zipped, divides by it, and
//! compilers for small code do not see that it is not 0.

use core::iter::from_fn;
use core::mem::take;

/// Pieces of `size` entries, without what is left at the end; none of size 0.
pub(crate) fn pieces<T>(mut rest: &[T], size: usize) -> impl Iterator<Item = &[T]> {
    from_fn(move || {
        let (piece, others) = rest.split_at_checked(size).filter(|_| size > 0)?;
        rest = others;
        Some(piece)
    })
}

/// [`pieces`], to be changed.
pub(crate) fn pieces_mut<T>(mut rest: &mut [T], size: usize) -> impl Iterator<Item = &mut [T]> {
    from_fn(move || {
        let (piece, others) = take(&mut rest).split_at_mut_checked(size).filter(|_| size > 0)?;
        rest = others;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_exact_chunks() {
        let mut list = [1, 2, 3, 4, 5, 6, 7];
        for size in 1..9 {
            assert!(pieces(&list, size).eq(list.chunks_exact(size)), "{size}");
            let mut other = list;
            assert!(pieces_mut(&mut list, size).eq(other.chunks_exact_mut(size)), "{size}");
        }
        assert_eq!((pieces(&list, 0).count(), pieces_mut(&mut list, 0).count()), (0, 0));
    }
}
