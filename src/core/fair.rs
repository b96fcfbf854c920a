//! How room is shared among users, so that nobody's thousands hold up somebody else's one.

/// How many of each user's waiting jobs to take: `room` in all, and of each no more than they may
/// still run. Users are served in turn, so the shares differ by at most one where all want more.
pub fn shares(mut room: usize, most_of_each: &[usize]) -> Vec<usize> {
    let mut shares = vec![0; most_of_each.len()];
    loop {
        let hungry: Vec<usize> =
            (0..shares.len()).filter(|user| shares[*user] < most_of_each[*user]).collect();
        if hungry.is_empty() || room == 0 {
            return shares;
        }
        // At least one each, to the first ones where that is all there is.
        let each = (room / hungry.len()).max(1);
        for user in hungry {
            let more = each.min(most_of_each[user] - shares[user]).min(room);
            shares[user] += more;
            room -= more;
        }
    }
}

/// Of a limit below this, nothing is kept back: half of it would be nothing to speak of.
const SMALL: usize = 8;

/// The most that one user may hold of a limit of which the others hold `others`: half of what they leave,
/// so that, whoever holds what for however long, there is something left for the next one. Of 256 places
/// one user alone has 128, a second one 64, a third one 32, and so on.
pub fn most(limit: usize, others: usize) -> usize {
    let left = limit.saturating_sub(others);
    if limit < SMALL { left } else { left.div_ceil(2) }
}

#[cfg(test)]
mod tests {
    use super::{most, shares};

    #[test]
    fn there_is_something_left_for_the_next_one() {
        assert_eq!(most(256, 0), 128);
        assert_eq!(most(256, 128), 64);
        assert_eq!(most(3, 0), 3);
        assert_eq!(most(3, 2), 1);
        assert_eq!(most(8, 8), 0);
        assert_eq!(most(8, 9), 0);
        for limit in [8, 100, 256, 1000] {
            let (mut held, mut users) = (0, 0);
            while held < limit {
                let taken = most(limit, held);
                assert!(taken > 0);
                held += taken;
                users += 1;
            }
            assert_eq!(held, limit);
            assert!(1 << users >= limit, "{users} users fill {limit}");
        }
    }

    #[test]
    fn room_is_shared_evenly() {
        assert_eq!(shares(10, &[100]), [10]);
        assert_eq!(shares(10, &[100, 1]), [9, 1]);
        assert_eq!(shares(10, &[100, 100, 100]), [4, 3, 3]);
        assert_eq!(shares(2, &[5, 5, 5]), [1, 1, 0]);
        assert_eq!(shares(10, &[0, 2]), [0, 2]);
        assert_eq!(shares(0, &[5]), [0]);
        assert_eq!(shares(5, &[]), [] as [usize; 0]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_wasted_and_nobody_gets_too_much(
            room in 0usize..500, most in proptest::collection::vec(0usize..100, 0..20),
        ) {
            let given = shares(room, &most);
            proptest::prop_assert!(given.iter().zip(&most).all(|(given, most)| given <= most));
            let total: usize = given.iter().sum();
            proptest::prop_assert_eq!(total, room.min(most.iter().sum()));
        }
    }
}
