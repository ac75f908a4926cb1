// One token in one layer: takes its logits, chooses the experts that it wants and those that run, and weighs them, bit
// for bit as `Router::top_k`, `select` and `Router::weights` of a softmax router without bias and groups.
//
// The logits go through a chain that keeps the best k. Who is not among them goes, if resident, through a second chain
// of the same length: the stand-ins, best first. The wanted experts that are missing, the last first, are paired with
// them until a bound is spent; the pairs do not depend on where that is.
module unit_select #(
  parameter int unsigned E = 256,
  parameter int unsigned K = 8,
  parameter int unsigned DIVIDERS = 8,
  parameter int unsigned ID = $clog2(E),
  parameter int unsigned RANK = (K > 1) ? $clog2(K) : 1
) (
  input  logic              clk,
  input  logic              rst_n,
  input  logic              start,
  input  logic              cancel,
  // What the registers say; holds still.
  input  logic [ID:0]       experts,
  input  logic [RANK:0]     k,
  input  logic [6:0]        keep_top,
  input  logic [31:0]       eps_mass,
  input  logic [31:0]       eps_error,
  input  logic              error_bound,
  input  logic              of_chosen,
  // Logits in the order of their experts, and whether each is resident.
  input  logic              in_valid,
  input  logic              in_last,
  input  logic [31:0]       in_logit,
  input  logic [ID-1:0]     in_expert,
  input  logic              in_resident,
  // The choice: of each rank the expert, a rank a cycle from `chosen` on, whether it stands in, whether it is missing.
  // Then the weights.
  output logic              chosen,
  output logic              weighed,
  output logic [RANK:0]     stand_ins,
  output logic [K*ID-1:0]   chosen_ids,
  output logic [K-1:0]      replaced,
  output logic [K-1:0]      missing,
  output logic [K*ID-1:0]   wanted_ids,
  output logic [K*32-1:0]   weights
);
  localparam int unsigned KEY = 32 + ID;

  // How masses are asked for: of the wanted, of the stand-ins, of all, of the chosen.
  localparam logic [1:0] WANTED = 2'd0, STAND_IN = 2'd1, ALL = 2'd2, CHOSEN = 2'd3;
  typedef enum logic [4:0] {
    IDLE, LOGITS, SETTLE, MASSES, EVERY, COLLECT, BUDGET, PAIRS, SPEND, CHOOSE, WEIGH, COLLECT_CHOSEN, SCALE, SHARE,
    LOAD, DIVIDE, KEEP
  } state_t;
  state_t state;
  logic [11:0] count;

  // The two chains. A greater key is a greater logit, and of equal ones a lower id.
  logic [K-1:0] in_use, wanted_full, stand_in_full, wanted_resident;
  logic [K*KEY-1:0] wanted_keys, stand_in_keys;
  logic loser_valid, loser_resident;
  logic [KEY-1:0] loser_key;
  for (genvar i = 0; i < K; i++) begin : use_of_cells
    always_ff @(posedge clk) if (start) in_use[i] <= (RANK + 1)'(i) < k;
    assign wanted_ids[i*ID+:ID] = ~wanted_keys[i*KEY+:ID];
  end
  unit_rank_chain #(.K(K), .KEY(KEY), .DATA(1)) wanted_chain (
    .clk, .rst_n, .clear(start), .enabled(in_use),
    .in_valid, .in_key({~in_logit[31], in_logit[30:0], ~in_expert}), .in_data(in_resident),
    .out_valid(loser_valid), .out_key(loser_key), .out_data(loser_resident),
    .full(wanted_full), .keys(wanted_keys), .data(wanted_resident)
  );
  unit_rank_chain #(.K(K), .KEY(KEY), .DATA(1)) stand_in_chain (
    .clk, .rst_n, .clear(start), .enabled({K{1'b1}}),
    .in_valid(loser_valid & loser_resident), .in_key(loser_key), .in_data(1'b0),
    .out_valid(), .out_key(), .out_data(), .full(stand_in_full), .keys(stand_in_keys), .data()
  );
  wire [31:0] greatest = wanted_keys[KEY-1-:32];

  // The logits once more, where all experts share the mass.
  logic [31:0] logit_again;
  logic [ID-1:0] again;
  unit_ram #(.WIDTH(32), .DEPTH(E)) logits (
    .clk, .read(state == EVERY), .read_address(again), .read_data(logit_again),
    .write(in_valid), .write_address(in_expert), .write_data({~in_logit[31], in_logit[30:0]})
  );

  // Masses: asked for one a cycle, and where they come back. A cycle for who it is, one for his logit.
  logic ask, ask_1, ask_2, mass_valid, stands_in_1, choosing_1, choosing_2;
  logic [1:0] kind, kind_1, kind_2, mass_kind;
  logic [RANK-1:0] index, index_1, index_2, place_1, mass_index;
  logic [31:0] value_2, largest, mass;
  logic [ID-1:0] id_2;
  logic [RANK-1:0] source;
  logic [K*RANK-1:0] sources;
  logic [32+ID-1:0] of_wanted, of_stand_in;
  logic replaced_there;
  wire [32+ID-1:0] of_rank = stands_in_1 ? of_stand_in : of_wanted;
  unit_pick #(.N(K), .WIDTH(RANK + 1)) pick_source (
    .entries(marked_sources), .index, .entry({replaced_there, source})
  );
  unit_pick #(.N(K), .WIDTH(KEY)) pick_wanted (.entries(wanted_keys), .index(index_1), .entry(of_wanted));
  unit_pick #(.N(K), .WIDTH(KEY)) pick_stand_in (.entries(stand_in_keys), .index(place_1), .entry(of_stand_in));
  always_comb begin
    ask = 1'b0;
    kind = WANTED;
    index = RANK'(count);
    again = ID'(count);
    case (state)
      MASSES: begin
        ask = 1'b1;
        if (count >= 12'(k)) begin
          kind = STAND_IN;
          index = RANK'(count - 12'(k));
        end
      end
      EVERY: begin
        ask = 1'b1;
        kind = ALL;
      end
      CHOOSE: kind = CHOSEN;
      WEIGH: begin
        ask = 1'b1;
        kind = CHOSEN;
      end
      default: ;
    endcase
  end
  always_ff @(posedge clk) begin
    stands_in_1 <= kind == STAND_IN | (kind == CHOSEN & replaced_there);
    place_1 <= kind == CHOSEN ? source : index;
    value_2 <= kind_1 == ALL ? logit_again : of_rank[KEY-1:ID];
    id_2 <= ~of_rank[ID-1:0];
    {kind_2, kind_1} <= {kind_1, kind};
    {index_2, index_1} <= {index_1, index};
    {choosing_2, choosing_1} <= {choosing_1, state == CHOOSE};
  end
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) {ask_2, ask_1} <= '0;
    else if (start) {ask_2, ask_1} <= '0;
    else {ask_2, ask_1} <= {ask_1, ask};
  end
  unit_exponential #(.TAG(2 + RANK)) exponential (
    .clk, .rst_n, .clear(start), .in_valid(ask_2), .in_tag({kind_2, index_2}), .largest, .value(value_2),
    .out_valid(mass_valid), .out_tag({mass_kind, mass_index}), .mass
  );

  // Masses of the wanted, later of the chosen, and in the end their weights; masses of the stand-ins; sums.
  logic [K*32-1:0] stand_in_masses;
  logic [41:0] sum, sum_of_all;
  logic [11:0] collected;
  logic [DIVIDERS*32-1:0] quotients;
  localparam int unsigned BLOCKS = K / DIVIDERS;
  localparam int unsigned BLOCK = (BLOCKS > 1) ? $clog2(BLOCKS) : 1;
  logic [RANK:0] block;
  for (genvar i = 0; i < K; i++) begin : masses
    always_ff @(posedge clk) begin
      if (mass_valid && (mass_kind == WANTED || mass_kind == CHOSEN) && mass_index == RANK'(i))
        weights[32*i+:32] <= mass;
      else if (state == KEEP && block == (RANK + 1)'(i / DIVIDERS))
        weights[32*i+:32] <= quotients[32*(i%DIVIDERS)+:32];
      if (mass_valid && mass_kind == STAND_IN && mass_index == RANK'(i)) stand_in_masses[32*i+:32] <= mass;
    end
  end
  always_ff @(posedge clk) begin
    if (start || state == CHOOSE) sum <= '0;
    else if (mass_valid && (mass_kind == WANTED || mass_kind == CHOSEN)) sum <= sum + 42'(mass);
    if (start) sum_of_all <= '0;
    else if (mass_valid && mass_kind == ALL) sum_of_all <= sum_of_all + 42'(mass);
    // Stand-ins are not counted: they come in the order in which they are needed, and in time.
    if (start || state == CHOOSE) collected <= '0;
    else if (mass_valid && mass_kind != STAND_IN) collected <= collected + 12'd1;
  end
  logic [11:0] asked;
  always_ff @(posedge clk) asked <= 12'(k) + (of_chosen ? 12'd0 : 12'(experts));
  wire [41:0] total = of_chosen ? sum : sum_of_all;

  // What a token may lose: parts of masses by one multiplier, which the pairs use after that. `fed` are the cycles since
  // it was given the first of them.
  logic [13:0] fed;
  logic [31:0] factor_a, factor_b;
  logic [63:0] product, error_left;
  logic [41:0] mass_left, part;
  logic [31:0] error_mass;
  unit_multiply #(.A(32), .B(32)) multiplier (.clk, .a(factor_a), .b(factor_b), .product);

  // Pairs: rank `rank` with stand-in `pair`. Masses, then their difference, its square and their product, then what it
  // costs. Two cycles a pair where the error is bounded.
  logic [RANK:0] rank, pair;
  logic second;
  logic [K*33-1:0] marked_masses, marked_stand_ins;
  logic [K*(RANK+1)-1:0] marked_sources;
  for (genvar i = 0; i < K; i++) begin : marks
    assign marked_masses[33*i+:33] = {wanted_resident[i], weights[32*i+:32]};
    assign marked_stand_ins[33*i+:33] = {stand_in_full[i], stand_in_masses[32*i+:32]};
    assign marked_sources[(RANK+1)*i+:RANK+1] = {replaced[i], sources[RANK*i+:RANK]};
  end
  wire [RANK-1:0] at_rank = RANK'(rank - 1'b1);
  wire pairs_left = rank > (RANK + 1)'(0) & 12'(rank) > 12'(keep_top);
  logic present, full_there;
  logic [31:0] old_mass, new_mass;
  unit_pick #(.N(K), .WIDTH(33)) pick_old (.entries(marked_masses), .index(at_rank), .entry({present, old_mass}));
  unit_pick #(.N(K), .WIDTH(33)) pick_new (
    .entries(marked_stand_ins), .index(pair[RANK-1:0]), .entry({full_there, new_mass})
  );
  wire stand_in_there = pair < (RANK + 1)'(K) & full_there;
  wire issue = state == PAIRS & pairs_left & ~present & stand_in_there & ~second;
  logic [9:0] issued;
  logic [31:0] old_1, new_1, old_2, new_2, lost_2, old_3, new_3;
  logic [RANK-1:0] rank_10, pair_10;
  logic [31:0] lost_8;
  logic [63:0] square_7, cost_8;
  always_ff @(posedge clk) begin
    {old_1, new_1} <= {old_mass, new_mass};
    lost_2 <= old_1 - new_1;
    {old_2, new_2} <= {old_1, new_1};
    {old_3, new_3} <= {old_2, new_2};
    square_7 <= product;
    cost_8 <= square_7 + (product >> 2);
  end
  unit_delay #(.WIDTH(2 * RANK), .CYCLES(10)) pair_line (
    .clk, .in({at_rank, pair[RANK-1:0]}), .out({rank_10, pair_10})
  );
  unit_delay #(.WIDTH(32), .CYCLES(6)) lost_line (.clk, .in(lost_2), .out(lost_8));
  always_comb begin
    factor_a = issued[1] ? lost_2 : old_3;
    factor_b = issued[1] ? lost_2 : new_3;
    if (fed[0]) {factor_a, factor_b} = {sum[31:0], eps_mass};
    if (fed[1]) {factor_a, factor_b} = {22'd0, sum[41:32], eps_mass};
    if (error_bound && fed[2]) {factor_a, factor_b} = {total[31:0], eps_error};
    if (error_bound && fed[3]) {factor_a, factor_b} = {22'd0, total[41:32], eps_error};
    if (error_bound && fed[9]) {factor_a, factor_b} = {error_mass, error_mass};
  end
  always_ff @(posedge clk) begin
    if (fed[4]) mass_left <= 42'(product[63:32]);
    if (fed[5]) mass_left <= mass_left + product[41:0];
    if (fed[6]) part <= 42'(product[63:32]);
    if (fed[7]) part <= part + product[41:0];
    if (fed[8]) error_mass <= part[41:32] != '0 ? 32'hffff_ffff : part[31:0];
    if (fed[13]) error_left <= product;
  end

  // What the pairs cost so far, kept or not: those before one that is not kept all were.
  logic [31+RANK:0] mass_spent;
  logic [63+RANK:0] error_spent;
  logic affordable, stopped;
  wire kept = issued[9] & ~stopped & affordable;
  always_ff @(posedge clk) begin
    if (start) {mass_spent, error_spent} <= '0;
    else if (issued[7]) begin
      mass_spent <= mass_spent + (32 + RANK)'(lost_8);
      error_spent <= error_spent + (64 + RANK)'(cost_8);
    end
    affordable <= mass_left >= 42'(mass_spent) & (~error_bound | (64 + RANK)'(error_left) >= error_spent);
  end
  for (genvar i = 0; i < K; i++) begin : replacements
    always_ff @(posedge clk) begin
      if (start) replaced[i] <= 1'b0;
      else if (kept && rank_10 == RANK'(i)) replaced[i] <= 1'b1;
      if (kept && rank_10 == RANK'(i)) sources[RANK*i+:RANK] <= pair_10;
    end
  end
  always_ff @(posedge clk) begin
    if (start) stopped <= 1'b0;
    else if (issued[9] && !kept) stopped <= 1'b1;
    if (start) stand_ins <= '0;
    else if (kept) stand_ins <= stand_ins + 1'b1;
  end
  wire may_replace = eps_mass != '0 & ~(error_bound & eps_error == '0);

  // The choice, rank by rank, and the greatest logit in it: of all, where all share the mass, else of those that do.
  for (genvar i = 0; i < K; i++) begin : choices
    assign missing[i] = in_use[i] & ~replaced[i] & ~wanted_resident[i];
    always_ff @(posedge clk) if (choosing_2 && index_2 == RANK'(i)) chosen_ids[i*ID+:ID] <= id_2;
  end
  always_ff @(posedge clk) begin
    if (state == MASSES && count == '0) largest <= greatest;
    else if (choosing_2 && of_chosen && (index_2 == '0 || value_2 > largest)) largest <= value_2;
  end

  // Shares of the whole: it is brought to 32 bits, rounded up, and its parts with it.
  logic [3:0] down, bits_over;
  logic [31:0] whole, rounded;
  logic inexact, bits_lost;
  always_comb begin
    bits_over = '0;
    bits_lost = 1'b0;
    for (int i = 0; i < 10; i++) if (total[32+i]) bits_over = 4'(i + 1);
    for (int i = 0; i < 10; i++) if (4'(i) < down && total[i]) bits_lost = 1'b1;
  end
  always_ff @(posedge clk) begin
    down <= bits_over;
    rounded <= 32'(total >> down);
    inexact <= bits_lost & 32'(total >> down) != 32'hffff_ffff;
    if (state == SHARE) whole <= rounded + 32'(inexact);
  end
  for (genvar i = 0; i < DIVIDERS; i++) begin : dividers
    logic [BLOCKS*32-1:0] in_turn;
    logic [31:0] numerator;
    for (genvar j = 0; j < BLOCKS; j++) begin : turns
      assign in_turn[32*j+:32] = weights[32*(j*DIVIDERS+i)+:32];
    end
    unit_pick #(.N(BLOCKS), .WIDTH(32)) pick_numerator (
      .entries(in_turn), .index(BLOCK'(block)), .entry(numerator)
    );
    unit_quotient divider (
      .clk, .load(state == LOAD), .step(state == DIVIDE), .numerator(numerator >> down), .denominator(whole),
      .quotient(quotients[32*i+:32])
    );
  end

  wire running = state != IDLE;
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      count <= '0;
      {rank, pair, second, issued, fed, block} <= '0;
      {chosen, weighed} <= '0;
    end else if (start) begin
      state <= LOGITS;
      count <= '0;
      {rank, pair, second, issued, fed, block} <= '0;
      {chosen, weighed} <= '0;
    end else if (cancel) begin
      state <= IDLE;
    end else if (running) begin
      count <= count + 12'd1;
      issued <= {issued[8:0], issue};
      fed <= fed << 1;
      case (state)
        LOGITS: begin
          count <= '0;
          if (in_valid && in_last) state <= k == (RANK + 1)'(K) ? MASSES : SETTLE;
        end
        // A key takes a cycle from cell to cell: the masses of the wanted are asked for as the last logit comes to their
        // cells. Past the cells that are not in use it takes as long as the wait here.
        SETTLE: if (count + 12'd1 + 12'(k) == 12'(K)) begin
          state <= MASSES;
          count <= '0;
        end
        MASSES: if (count + 12'd1 == 12'(2 * k)) begin
          state <= of_chosen ? COLLECT : EVERY;
          count <= '0;
        end
        EVERY: if (count + 12'd1 == 12'(experts)) state <= COLLECT;
        COLLECT: begin
          count <= '0;
          rank <= k;
          if (collected >= asked) begin
            state <= may_replace ? BUDGET : CHOOSE;
            fed[0] <= may_replace;
          end
        end
        // What may be lost is known before it is held against what the first pair loses.
        BUDGET: if (fed[error_bound ? 7 : 1]) state <= PAIRS;
        PAIRS: begin
          if (issue && error_bound) second <= 1'b1;
          else second <= 1'b0;
          if (!second) begin
            if (!pairs_left || (!present && !stand_in_there)) state <= SPEND;
            else rank <= rank - 1'b1;
            if (issue) pair <= pair + 1'b1;
          end
        end
        SPEND: begin
          count <= '0;
          if (issued == '0) state <= CHOOSE;
        end
        // A rank is said no earlier than two cycles after it is chosen here.
        CHOOSE: begin
          chosen <= 1'b1;
          if (count + 12'd1 == 12'(k)) begin
            state <= WEIGH;
            count <= '0;
          end
        end
        WEIGH: if (count + 12'd1 == 12'(k)) state <= COLLECT_CHOSEN;
        // The sum is there, then how far it goes down, then what is left of it.
        COLLECT_CHOSEN: if (collected == 12'(k)) state <= SCALE;
        SCALE: state <= SHARE;
        SHARE: state <= LOAD;
        LOAD: begin
          state <= DIVIDE;
          count <= '0;
        end
        DIVIDE: if (count == 12'd30) state <= KEEP;
        KEEP: begin
          block <= block + 1'b1;
          if ((12'(block) + 12'd1) * 12'(DIVIDERS) >= 12'(k)) begin
            state <= IDLE;
            weighed <= 1'b1;
          end else begin
            state <= LOAD;
          end
        end
        default: state <= IDLE;
      endcase
    end
  end
endmodule
